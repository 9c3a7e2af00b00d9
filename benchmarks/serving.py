"""How many requests the batcher answers in a time, and how soon the first token comes. See docs/benchmarks.md.

python benchmarks/serving.py                         # the embedded model, then a 279M LLaVA, one thread
python benchmarks/serving.py --models scenes-llava --rounds 1    # a minute, to see that it runs

Eight at once through the batcher stand beside the same requests one after the other, by plain `generate` and by the
batcher, in every round. "ideal" is the model fed only the tokens that a strategy kept (`vtokens.eval.ideal`).
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

import vtokens
from benchmarks.common import Clock, conditions, ratio, rounds, write
from benchmarks.shapes import build, prompt
from vtokens import scenes
from vtokens.core.prompts import encode_prompts, question_prompt
from vtokens.eval.ideal import Ideal
from vtokens.scenes.embedded import embedded_models
from vtokens.serve.batcher import Batcher
from vtokens.serve.jobs import Event, Failed, Job
from vtokens.strategies import parse

STRATEGIES = ("none", "cls(keep=0.25)", "cls(keep=0.1)", "mixed")
MIXED = ("none", "cls(keep=0.25)", "fastv(keep=0.5)", "todre(keep=0.25)")
AT_ONCE = 8


def main() -> None:
    """Print a row a figure, and write them."""
    options = _options()
    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    clock, rows, about = Clock(torch.device("cpu"), options.threads), [], None
    for name in options.models:
        model, processor, prompts = served(name, AT_ONCE)
        about = about or conditions(torch.device("cpu"), clock, model, draws=[0], at_once=AT_ONCE)
        with vtokens.attach(model, "none") as handle:
            for spec in options.strategies:
                for new in options.new:
                    rows.append(
                        {
                            "model": name,
                            **throughput(model, processor, handle, prompts, spec, new, clock, options.rounds),
                        }
                    )
                    print(rows[-1], flush=True)
            for spec in (one for one in options.strategies if one not in ("none", "mixed")):
                rows.append(
                    {"model": name, **first_token(model, processor, handle, prompts[0], spec, clock, options.rounds)}
                )
                print(rows[-1], flush=True)
    if options.output and about:
        write(options.output, {"conditions": about, "rows": rows})


def served(name: str, count: int) -> tuple[Any, Any, list[dict[str, Any]]]:
    """A model, what the batcher needs of its processor, and prompts with a picture each."""
    if name in embedded_models():
        model, processor = vtokens.load(name)
        sample = scenes.examples("test", n=count)
        texts = [question_prompt(processor, one.question, len(one.images)) for one in sample]
        return (
            model,
            processor,
            [dict(encode_prompts(processor, [text], [one.images])) for text, one in zip(texts, sample, strict=True)],
        )
    model = build(name, torch.device("cpu"), torch.float32)
    # The words of the shapes are noise: any tokenizer will do, and prompts that one processor makes join alike.
    processor = vtokens.load("scenes-llava")[1]
    return model, processor, [dict(prompt(model, (40 + number,))) for number in range(count)]


def throughput(
    model: Any, processor: Any, handle: Any, prompts: Sequence[Any], spec: str, new: int, clock: Clock, count: int
) -> dict[str, Any]:
    """Seconds for a request: eight at once, one at a time in the batcher, one at a time by `generate`."""
    settings = GenerationConfig(max_new_tokens=new, min_new_tokens=new, do_sample=False)
    specs = [spec if spec != "mixed" else MIXED[number % len(MIXED)] for number in range(len(prompts))]
    jobs = [Job(inputs, settings, parse(one)) for inputs, one in zip(prompts, specs, strict=True)]

    def plainly() -> None:
        for job, one in zip(jobs, specs, strict=True):
            with handle.using(one):
                model.generate(**job.inputs, generation_config=settings)

    with (
        Batcher(model, processor, handle, most=AT_ONCE, wait=1.0) as together,
        Batcher(model, processor, handle, most=1) as apart,
    ):
        runs: dict[str, Callable[[], float]] = {
            "at_once": lambda: clock.time(lambda: answered(together, jobs)),
            "in_turn": lambda: clock.time(lambda: [answered(apart, [job]) for job in jobs]),
            "generate": lambda: clock.time(plainly),
        }
        taken = rounds(runs, count)
    figures = {f"{name}_s": statistics.median(seconds) / len(jobs) for name, seconds in taken.items()}
    return {
        "kind": "throughput", "strategy": spec, "new_tokens": new, **figures,
        "against_generate": ratio(taken["at_once"], taken["generate"]),
        "against_in_turn": ratio(taken["at_once"], taken["in_turn"]),
    }  # fmt: skip


def first_token(
    model: Any, processor: Any, handle: Any, inputs: Any, spec: str, clock: Clock, count: int
) -> dict[str, Any]:
    """Seconds to the first token of a request by itself, with a strategy, without, and of the ideal."""
    settings = GenerationConfig(max_new_tokens=1, do_sample=False)
    with handle.using(spec):
        model.generate(**inputs, generation_config=settings)
        ideal = Ideal(model, inputs, handle.report())
    with Batcher(model, processor, handle, wait=0.0) as batcher:
        runs: dict[str, Callable[[], float]] = {
            "none": lambda: clock.time(lambda: answered(batcher, [Job(inputs, settings)])),
            "pruned": lambda: clock.time(lambda: answered(batcher, [Job(inputs, settings, parse(spec))])),
            "ideal": lambda: clock.time(lambda: ideal.generate(generation_config=settings)),
            "plain": lambda: clock.time(lambda: model.generate(**inputs, generation_config=settings)),
        }
        taken = rounds(runs, count)
    seconds = {name: statistics.median(values) for name, values in taken.items()}
    speedup, possible = seconds["none"] / seconds["pruned"], seconds["plain"] / seconds["ideal"]
    figures = {f"{name}_s": value for name, value in seconds.items()}
    return {"kind": "first token", "strategy": spec, **figures, "speedup": speedup, "of_ideal": speedup / possible}


def answered(batcher: Batcher, jobs: Sequence[Job]) -> None:
    """Submit jobs at once and wait for all of them.

    Raises:
        Exception: that of one that failed.
    """
    failed: list[Exception] = []

    def on(event: Event) -> None:
        if isinstance(event, Failed):
            failed.append(event.error)

    for answering in [batcher.submit(job, on) for job in jobs]:
        answering.wait()
    if failed:
        raise failed[0]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["scenes-llava", "llava-300m"])
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES))
    parser.add_argument("--new", nargs="+", type=int, default=[4, 32], help="tokens of an answer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="folder for the tables")
    return parser.parse_args()


if __name__ == "__main__":
    main()
