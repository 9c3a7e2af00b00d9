"""Thousands of requests through the batcher: each answers as it does alone, and memory stays what it was.

python benchmarks/serving_long.py equality --requests 2000 --output benchmarks/results/serving-cpu/equality
python benchmarks/serving_long.py memory --requests 10000 --output benchmarks/results/serving-cpu/memory

No figure here is a time: both may run on a machine that does other work. Prompts, strategies, settings and how many
requests come at once (1 to 16) are drawn; of those whose memory is measured every seventh group loses one to a cancel.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

import vtokens
from benchmarks.common import Clock, conditions, write
from benchmarks.serving import served
from vtokens.serve.batcher import Batcher
from vtokens.serve.jobs import Began, End, Event, Job
from vtokens.strategies import format_spec, parse

STRATEGIES = ("none", "cls(keep=0.25)", "fastv(keep=0.5, layer=2)+vhr", "todre(keep=0.2)", "vcd")
CHEAP = ("none", "cls(keep=0.1)", "uniform(keep=0.1)", "cls(keep=0.05)", "fastv(keep=0.2, layer=1)")
"""Where only the memory counts."""
MOST, PROMPTS = 16, 16
EVERY = 500
"""Requests between two readings of the memory."""


def main() -> None:
    """Run one of both."""
    options = _options()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    model, processor, prompts = served("scenes-llava", PROMPTS)
    about = conditions(torch.device("cpu"), Clock(torch.device("cpu"), 1), model, draws=[0], requests=options.requests)
    with vtokens.attach(model, "none") as handle, Batcher(model, processor, handle) as batcher:
        run = equality if options.what == "equality" else memory
        rows = run(model, handle, batcher, prompts, options.requests)
    if options.output:
        write(options.output, {"conditions": about, "rows": rows})


def drawn(prompts: Sequence[Any], requests: int, specs: Sequence[str], lengths: Sequence[int]) -> Iterator[list[Job]]:
    """Groups of requests that come at once, for answers of at most so many tokens."""
    draw = random.Random(0)
    while requests > 0:
        jobs = [_job(draw, prompts, specs, lengths) for _ in range(min(requests, draw.randint(1, MOST)))]
        requests -= len(jobs)
        yield jobs


def _job(draw: random.Random, prompts: Sequence[Any], specs: Sequence[str], lengths: Sequence[int]) -> Job:
    greedy = draw.random() < 0.5
    more = {} if greedy else {"temperature": draw.choice((0.7, 1.5)), "top_p": 0.9}
    settings = GenerationConfig(max_new_tokens=draw.choice(lengths), do_sample=not greedy, **more)
    spec = parse(draw.choice(specs))
    return Job(draw.choice(prompts), settings, spec, seed=draw.randrange(2), owner=draw.choice("abc"))


def equality(model: Any, handle: Any, batcher: Batcher, prompts: Sequence[Any], requests: int) -> list[dict[str, Any]]:
    """A row a strategy: how many were asked, in batches of what size, and how many answered as alone."""
    asked, equal, shared, rows = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    place = {id(inputs): number for number, inputs in enumerate(prompts)}

    @cache
    def alone(number: int, spec: str, most: int, sampled: bool, temperature: Any, top_p: Any, seed: int) -> Any:
        settings = GenerationConfig(max_new_tokens=most, do_sample=sampled, temperature=temperature, top_p=top_p)
        torch.manual_seed(seed)
        with handle.using(spec):
            out = model.generate(**prompts[number], generation_config=settings)
        return tuple(out[0, prompts[number]["input_ids"].shape[1] :].tolist())

    for jobs in drawn(prompts, requests, STRATEGIES, (2, 4, 8)):
        for job, events in zip(jobs, heard(batcher, jobs), strict=True):
            spec, config, end = format_spec(job.program), job.settings, events[-1]
            sampling = (bool(config.do_sample), config.temperature, config.top_p, job.seed if config.do_sample else 0)
            expected = alone(place[id(job.inputs)], spec, config.max_new_tokens, *sampling)
            asked[spec] += 1
            equal[spec] += isinstance(end, End) and end.ids == expected
            size = next(event.rows for event in events if isinstance(event, Began))
            shared[spec] += size > 1
            rows[spec] += size
        if sum(asked.values()) % 100 < MOST:
            print(sum(asked.values()), "asked,", sum(equal.values()), "equal", flush=True)
    return [
        {"strategy": spec, "asked": count, "equal": equal[spec], "shared_a_pass": shared[spec],
         "mean_batch": rows[spec] / count}
        for spec, count in sorted(asked.items())
    ]  # fmt: skip


def memory(model: Any, handle: Any, batcher: Batcher, prompts: Sequence[Any], requests: int) -> list[dict[str, Any]]:
    """A row each `EVERY` requests: the memory that the process holds."""
    rows, done, ends = [], 0, Counter[str]()
    for jobs in drawn(prompts, requests, CHEAP, (1, 2, 3)):
        for events in heard(batcher, jobs, cancel=done % 7 == 0):
            ends[getattr(events[-1], "reason", "failed")] += 1
        if done // EVERY != (done + len(jobs)) // EVERY or done == 0:
            gc.collect()
            rows.append({"requests": done + len(jobs), "rss_mib": _rss() / 2**20, "objects": len(gc.get_objects())})
            print(rows[-1], dict(ends), flush=True)
        done += len(jobs)
    return rows


def heard(batcher: Batcher, jobs: Sequence[Job], cancel: bool = False) -> list[list[Event]]:
    """Submit at once, cancel one where asked to, and wait for all; the events of each."""
    events: list[list[Event]] = [[] for _ in jobs]
    waiting = [batcher.submit(job, on.append) for job, on in zip(jobs, events, strict=True)]
    if cancel:
        waiting[-1].cancel()
    for answering in waiting:
        answering.wait()
    return events


def _rss() -> int:
    """Bytes of memory that the process holds (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["equality", "memory"])
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--output", type=Path, help="folder for the tables")
    return parser.parse_args()


if __name__ == "__main__":
    main()
