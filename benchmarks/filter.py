"""What the hallucination filter costs: checking beside one plain pass, generating beside plain generation.

python benchmarks/filter.py                  # the embedded model and a 279M LLaVA on the CPU, one thread
python benchmarks/filter.py --quick          # seconds, to see that it runs
python benchmarks/filter.py --device cuda    # LLaVA-1.5-7B in bfloat16
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from transformers import CLIPImageProcessorPil, LlavaProcessor, LogitsProcessor, LogitsProcessorList  # noqa: E402

import vtokens  # noqa: E402
from benchmarks.common import Clock, conditions, ratio, rounds, set_output, summary, timing_options, write  # noqa: E402
from benchmarks.shapes import SHAPES  # noqa: E402
from vtokens import scenes  # noqa: E402
from vtokens.adapters import adapter_for  # noqa: E402
from vtokens.eval.presets import preset  # noqa: E402
from vtokens.eval.shapes import random_model, resize  # noqa: E402
from vtokens.filter.filter import HallucinationFilter  # noqa: E402
from vtokens.filter.gate import KINDS, Gate  # noqa: E402
from vtokens.filter.trace.prompts import batch, prompt_inputs  # noqa: E402

TARGETS = {"check": 1.3, "generate": 1.10, "let through": 1.05}
"""The most over one teacher-forced pass of the same tokens, and over plain generation."""
EMBEDDED = "scenes-llava"


def main() -> None:
    """Measure, print the table and write the results."""
    options = _options()
    device = torch.device(options.device)
    torch.set_num_threads(options.threads)
    clock, results = Clock(device, options.threads), []
    for shape in options.model:
        model, processor = build(shape, device)
        about = conditions(device, clock, model, draws=[0, 1, 7], shape=shape, rounds=options.rounds,
                           tokens=options.tokens, targets=TARGETS)  # fmt: skip
        results.append({"conditions": about, "rows": []})
        for size in options.batch:
            for strategy in options.strategy:
                # With nothing to do, even attached hooks would make the plain runs slower.
                with nullcontext() if strategy == "none" else vtokens.attach(model, strategy):
                    for signals in ("fast", "full"):
                        rows = measure(model, processor, size, signals, clock, options)
                        results[-1]["rows"] += [
                            {"batch": size, "strategy": strategy, "signals": signals} | r for r in rows
                        ]
        Console(width=150).print(table(results[-1]))
        del model
    if options.output:
        models = [result["conditions"] for result in results]
        rows = [{"shape": r["conditions"]["shape"], **row} for r in results for row in r["rows"]]
        write(options.output, {"conditions": models[0], "models": models, "rows": rows})


def measure(
    model: Any, processor: Any, size: int, signals: str, clock: Clock, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """`check` beside one pass over the same tokens, and `generate` beside the plain one if no signal costs a pass.

    What is written is given, so that random weights write captions with as many mentions as trained ones.
    """
    drawn = scenes.examples("test", n=size, seed=7, kinds=["caption"])
    images, prompts = [e.image for e in drawn], [e.question for e in drawn]
    groups = [[image] for image in images]
    checker = HallucinationFilter(model, processor, signals=signals, extractor="scenes", batch_size=size)
    said = [" , ".join(e.answer for e in drawn[i:] + drawn[:i]) + " , " for i in range(size)]
    written = [
        checker.processor.tokenizer(text * options.tokens, add_special_tokens=False)["input_ids"] for text in said
    ]
    written = [ids[: options.tokens] for ids in written]
    start = prompt_inputs(processor, groups, prompts, model.device)["input_ids"].shape[1]
    forced = LogitsProcessorList([Forced(torch.tensor(written, device=model.device), start)])
    length = {"max_new_tokens": options.tokens, "do_sample": False, "logits_processor": forced}
    adapter = adapter_for(model)

    @torch.no_grad()
    def forward() -> None:
        given = batch(adapter, processor, prompt_inputs(processor, groups, prompts, model.device), written)
        model(**given.full(adapter))

    @torch.no_grad()
    def plain() -> None:
        model.generate(**prompt_inputs(processor, groups, prompts, model.device), **length)

    mentions = sum(len(report.mentions) for report in checker.check(images, prompts, written))
    runs: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "check": (forward, lambda: checker.check(images, prompts, written))
    }
    if not any(signal.passes for signal in checker.judge.signals):
        runs["generate"] = (plain, lambda: checker.generate(images, prompts, **length))
        through = Gate(dict.fromkeys(KINDS, math.inf))
        runs["let through"] = (plain, lambda: checker.generate(images, prompts, gate=through, **length))
    rows = []
    for name, (base, ours) in runs.items():
        both = rounds(
            {"plain": lambda base=base: clock.time(base), name: lambda ours=ours: clock.time(ours)}, options.rounds
        )
        over = ratio(both[name], both["plain"])
        rows.append({
            "run": name, "mentions": mentions, "plain": summary(both["plain"]), "seconds": summary(both[name]),
            "over_plain": over, "target": TARGETS[name] if signals == "fast" else None,
            "target_met": over["median"] <= TARGETS[name] if signals == "fast" else None,
        })  # fmt: skip
        print(f"  batch {size}, {signals}: {name} {over['median']:.3f}", file=sys.stderr, flush=True)
    return rows


class Forced(LogitsProcessor):
    """Makes a model write given tokens (B, T) behind a prompt of `start`."""

    def __init__(self, tokens: torch.Tensor, start: int) -> None:
        self._tokens, self._start = tokens, start

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """(B, V) scores, -inf for every other token."""
        forced = self._tokens[:, input_ids.shape[1] - self._start, None]
        return torch.full_like(scores, -torch.inf).scatter(1, forced, 0.0)


def build(shape: str, device: torch.device) -> tuple[Any, Any]:
    """The embedded model, or a published LLaVA shape with random weights and the embedded model's tokenizer."""
    model, processor = vtokens.load(EMBEDDED, strategy="none", dtype=torch.float32)
    if shape == EMBEDDED:
        return model.to(device).eval(), processor
    tokenizer = processor.tokenizer
    name, scale, layers = SHAPES[shape]
    config, _ = resize(preset(name), scale, layers)
    config.text_config.vocab_size = len(tokenizer)
    config.image_token_id = model.config.image_token_id
    image_processor = CLIPImageProcessorPil(
        size={"shortest_edge": config.vision_config.image_size},
        crop_size={"height": config.vision_config.image_size, "width": config.vision_config.image_size},
    )
    made = LlavaProcessor(
        image_processor, tokenizer, patch_size=config.vision_config.patch_size, num_additional_image_tokens=1,
        vision_feature_select_strategy=config.vision_feature_select_strategy, image_token=processor.image_token,
        chat_template=processor.chat_template,
    )  # fmt: skip
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    large = random_model(config, device, dtype, attn_implementation="sdpa")
    large.generation_config.pad_token_id = tokenizer.pad_token_id
    return large, made


def table(result: dict[str, Any]) -> Table:
    """The figures as text."""
    about = result["conditions"]
    title = (
        f"{about['shape']}, {about['parameters'] / 1e6:,.1f}M parameters, {about['dtype']}, {about['device']}, "
        f"{about['threads']} thread(s), {about['tokens']} tokens, median of {about['rounds']} rounds, {about['clock']}"
    )
    out = Table(
        "batch", "strategy", "signals", "run", "mentions", "plain", "filter", "over plain", "target", title=title
    )
    for row in result["rows"]:
        over = row["over_plain"]
        verdict = "" if row["target"] is None else f"{row['target']:g} {'met' if row['target_met'] else 'MISSED'}"
        out.add_row(
            str(row["batch"]), row["strategy"], row["signals"], row["run"], str(row["mentions"]),
            f"{1e3 * row['plain']['median']:,.1f} ms", f"{1e3 * row['seconds']['median']:,.1f} ms",
            f"{over['median']:.3f} ({over['q1']:.3f} to {over['q3']:.3f})", verdict,
        )  # fmt: skip
    return out


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", choices=[EMBEDDED, *SHAPES], help="default: what the device can hold")
    parser.add_argument("--strategy", nargs="+", default=["none"], help="what is attached (%(default)s)")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8], help="samples in one pass (%(default)s)")
    parser.add_argument("--tokens", type=int, default=24, help="of each response (%(default)s)")
    timing_options(parser, "default 9; 2 with --quick", "a smoke run on small models")
    options = parser.parse_args()
    cuda = options.device.startswith("cuda")
    if options.model is None:
        options.model = ["llava-1.5-7b"] if cuda else [EMBEDDED, "llava-quick" if options.quick else "llava-300m"]
    options.rounds = options.rounds or (2 if options.quick else 9)
    set_output(options, "filter")
    return options


if __name__ == "__main__":
    main()
