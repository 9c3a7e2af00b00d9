"""What strategies that act inside attention cost, beside plain generation and the eager way. See docs/benchmarks.md.

python benchmarks/attention.py                  # a 279M LLaVA on the CPU, one thread
python benchmarks/attention.py "vhr(divergence='two_branch')" --pictures 1 2
python benchmarks/attention.py --quick          # seconds, to see that it runs
python benchmarks/attention.py --device cuda    # LLaVA-1.5-7B and Qwen2.5-VL-7B in bfloat16, 1K to 16K visual tokens
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # the profiler that counts memory warns of older blocks
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

import vtokens  # noqa: E402
from benchmarks.cells import Ticks  # noqa: E402
from benchmarks.common import (  # noqa: E402
    Clock,
    conditions,
    peak_bytes,
    ratio,
    rounds,
    set_output,
    summary,
    timing_options,
    write,
)
from benchmarks.shapes import SHAPES, build, prompt  # noqa: E402
from vtokens.adapters import adapter_for  # noqa: E402
from vtokens.tables.sinks import Sinks  # noqa: E402

PICTURE = 576
TARGETS = {
    "cpu": {"prefill": 1.15, "token": 1.15, "memory": 1.02},
    "cuda": {"prefill": 1.05, "token": 1.1, "memory": 1.02},
}
"""The most over plain generation."""
PLAIN, EAGER = "plain", "eager"


def main() -> None:
    """Measure, print one table a shape and write the results."""
    options = _options()
    device = torch.device(options.device)
    torch.set_num_threads(options.threads)
    clock, results = Clock(device, options.threads), []
    for shape in options.preset:
        model = build(shape, device, torch.bfloat16 if device.type == "cuda" else torch.float32)
        about = conditions(device, clock, model, draws=[0, 1], shape=shape, rounds=options.rounds,
                           tokens=options.tokens, text_tokens=options.text, targets=TARGETS[device.type])  # fmt: skip
        results.append({"conditions": about, "rows": []})
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "sinks.json"
            _sinks(model, prompt(model, (options.text,))).save(path)
            specs = {spec: _with_sinks(spec, path) for spec in options.strategy}
            for pictures in options.pictures:
                results[-1]["rows"] += measure(model, pictures, specs, clock, options)
        Console(width=150).print(table(results[-1]))
        del model
    for result in results if options.output else ():
        write(options.output / result["conditions"]["shape"] if len(results) > 1 else options.output, result)


def measure(
    model: Any, pictures: int, specs: dict[str, str], clock: Clock, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Prefill, decoding step and peak memory with one number of pictures: plain, each strategy, and the eager way."""
    batch = prompt(model, (options.text,), pictures)
    most = TARGETS[model.device.type]
    steps: dict[str, list[float]] = {}

    def timed(name: str, run: Callable[..., Any]) -> float:
        ticks = Ticks(clock)
        begin = clock.now()
        run(streamer=ticks)
        steps.setdefault(name, []).append(ticks.per_token)
        return ticks.at[1] - begin  # the first note is the prompt's

    plain = partial(model.generate, **batch, max_new_tokens=options.tokens)

    def attached(spec: str, run: Callable[[], Any]) -> Any:
        with vtokens.attach(model, spec):
            return run()

    runs = {PLAIN: partial(timed, PLAIN, plain)}
    runs |= {name: partial(attached, spec, partial(timed, name, plain)) for name, spec in specs.items()}
    if PICTURE * pictures <= options.eager:
        runs[EAGER] = partial(eagerly, model, partial(timed, EAGER, partial(plain, **_ALL_ATTENTIONS)))
    prefill = rounds(runs, options.rounds)
    step = {name: values[-options.rounds :] for name, values in steps.items()}  # without the warm-up
    peak = {PLAIN: peak_bytes(plain, model.device)}
    peak |= {name: attached(spec, partial(peak_bytes, plain, model.device)) for name, spec in specs.items()}
    if EAGER in runs:
        peak[EAGER] = eagerly(model, partial(peak_bytes, partial(plain, **_ALL_ATTENTIONS), model.device))
    rows = []
    for name in runs:
        first, each = ratio(prefill[name], prefill[PLAIN]), ratio(step[name], step[PLAIN])
        rows.append(
            {
                "visual_tokens": PICTURE * pictures,
                "run": name,
                "prefill": {"seconds": summary(prefill[name]), "over_plain": first},
                "token": {"seconds": summary(step[name]), "over_plain": each},
                "peak_bytes": peak[name],
                "memory_over_plain": peak[name] / peak[PLAIN],
                "target_met": {
                    "prefill": first["median"] <= most["prefill"],
                    "token": each["median"] <= most["token"],
                    "memory": peak[name] <= most["memory"] * peak[PLAIN],
                },
            }
        )
        print(f"  {name}: prefill {_spread(first)}, token {_spread(each)}", file=sys.stderr, flush=True)
    return rows


_ALL_ATTENTIONS = {"output_attentions": True, "return_dict_in_generate": True}


def eagerly(model: Any, run: Callable[[], Any]) -> Any:
    """Run with the whole attention matrices of all layers made and returned, as editing them takes."""
    model.set_attn_implementation("eager")
    try:
        return run()
    finally:
        model.set_attn_implementation("sdpa")


def _sinks(model: Any, batch: dict[str, torch.Tensor]) -> Sinks:
    """Random weights have no sinks: dimensions and a threshold that make a twentieth of a picture's tokens sinks."""
    depth = len(adapter_for(model).layers)
    found = Sinks(adapter_for(model).facts.decoder, tuple(range(8)), 1.0, "benchmarks/attention.py")
    with torch.no_grad():
        hidden = model(**batch, output_hidden_states=True, logits_to_keep=1).hidden_states[depth // 2]
    visual = batch["input_ids"] == model.config.image_token_id
    return replace(found, tau=found.phi(hidden)[visual].quantile(0.95).item())


def _with_sinks(spec: str, path: Path) -> str:
    """`spec` in which `var` reads its sinks from `path`."""
    parts = []
    for part in spec.split("+"):
        name, _, rest = part.partition("(")
        wants = name.strip() == "var" and "sinks" not in rest
        parts.append(f"var(sinks={json.dumps(str(path))}{', ' + rest if rest else ')'}" if wants else part)
    return "+".join(parts)


def table(result: dict[str, Any]) -> Table:
    """The figures as text."""
    about = result["conditions"]
    title = (
        f"{about['shape']}, {about['parameters'] / 1e6:,.0f}M parameters, {about['dtype']}, {about['device']}, "
        f"{about['threads']} thread(s), median of {about['rounds']} rounds, {about['clock']}"
    )
    heads = ("visual tokens", "run", "prefill", "over plain", "decoding step", "over plain", "peak memory", "targets")
    out = Table(*heads, title=title)
    for row, after in zip_longest(result["rows"], result["rows"][1:]):
        missed = [what for what, met in row["target_met"].items() if not met]
        verdict = "" if row["run"] in (PLAIN, EAGER) else "MISSED: " + ", ".join(missed) if missed else "met"
        out.add_row(
            str(row["visual_tokens"]), row["run"],
            _ms(row["prefill"]["seconds"]), _spread(row["prefill"]["over_plain"]),
            _ms(row["token"]["seconds"]), _spread(row["token"]["over_plain"]),
            f"{row['peak_bytes'] / 2**20:,.0f} MiB ({row['memory_over_plain']:.2f}x)", verdict,
            end_section=after is None or after["visual_tokens"] != row["visual_tokens"],
        )  # fmt: skip
    return out


def _ms(value: dict[str, float]) -> str:
    return f"{1e3 * value['median']:,.1f} ms"


def _spread(value: dict[str, float]) -> str:
    return f"{value['median']:.3f} ({value['q1']:.3f} to {value['q3']:.3f})"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("strategy", nargs="*", default=["var", "vhr", "var+vhr"], help="specs, default %(default)s")
    parser.add_argument("--preset", nargs="+", choices=SHAPES, help="default: what the device can hold")
    parser.add_argument("--pictures", nargs="+", type=int, help="of 576 visual tokens; default 1, on cuda 2 7 28")
    parser.add_argument("--text", type=int, default=40, help="text tokens, half of them after the pictures")
    parser.add_argument("--tokens", type=int, default=16, help="tokens to generate")
    parser.add_argument("--eager", type=int, default=5000, help="most visual tokens for which the eager way is run")
    timing_options(parser, "default 9; 20 on a GPU; 2 with --quick", "a smoke run on a small shape")
    options = parser.parse_args()
    cuda = options.device.startswith("cuda")
    if options.preset is None:
        options.preset = (
            ["llava-1.5-7b", "qwen2.5-vl-7b"] if cuda else ["llava-quick" if options.quick else "llava-300m"]
        )
    options.pictures = options.pictures or ([2, 7, 28] if cuda else [1])
    options.rounds = options.rounds or (2 if options.quick else 20 if cuda else 9)
    set_output(options, "attention")
    return options


if __name__ == "__main__":
    main()
