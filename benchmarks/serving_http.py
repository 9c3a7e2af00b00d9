"""What clients see of `vtokens serve` beside transformers' own server: requests a second, and the first token.

python benchmarks/serving_http.py --output benchmarks/results/serving-cpu/http   # two models, about ten minutes
python benchmarks/serving_http.py --models scenes-llava --rounds 2               # a minute, to see that it runs

Both servers run in processes of their own, with the same model from the same folder, and OpenAI's client asks them the
same, greedily. See docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import base64
import io
import itertools
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import openai
import torch
from transformers import GenerationConfig

import vtokens
from benchmarks.common import Clock, conditions, ratio, rounds, summary, write
from benchmarks.serving import answered
from benchmarks.serving_servers import ours, saved, theirs
from vtokens import scenes
from vtokens.core.prompts import encode_prompts, question_prompt
from vtokens.eval.ideal import Ideal
from vtokens.scenes.embedded import embedded_models
from vtokens.serve.batcher import Batcher
from vtokens.serve.coming import Coming
from vtokens.serve.jobs import Job
from vtokens.serve.join import Joiner
from vtokens.strategies import parse

PRESETS = {
    "tenth": "cls(keep=0.1)",
    "quarter": "cls(keep=0.25)",
    "half": "fastv(keep=0.5)",
    "turned": "todre(keep=0.25)",
}
WAYS = {"none": ("",), PRESETS["tenth"]: (":tenth",), "mixed": ("", ":quarter", ":half", ":turned")}
"""What is measured -> what is added to the model's name, request by request."""
SPEC = PRESETS["tenth"]
WORDS = " ".join(f"w{number}" for number in range(100, 130))
"""A question to a model whose words mean nothing."""


@dataclass(frozen=True)
class Asked:
    """Requests.

    Attributes:
        about: what is asked for.
        examples: pictures with questions.
        tokens: the most that an answer has.
    """

    about: str
    examples: Sequence[Any]
    tokens: int

    def bodies(self) -> list[dict[str, Any]]:
        """What is sent, without the model's name."""
        return [
            {"messages": _messages(one.image, one.question), "temperature": 0, "max_tokens": self.tokens}
            for one in self.examples
        ]


@dataclass(frozen=True)
class Example:
    """A picture and a question about it."""

    image: Any
    question: str


def main() -> None:
    """Measure, print rows as they come and write them."""
    options = _options()
    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # and the servers with it
    result: dict[str, Any] = {"conditions": {}, "throughput": [], "first_token": []}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models:
            where, small = saved(name, Path(folder)), name in embedded_models()
            count = options.rounds or (15 if small else 3)
            with ours(where, PRESETS, options.threads) as our, theirs(where, options.threads) as their:
                for asked in questions(name, options.at_once, options.tokens):
                    for row in throughput(our, their, where, asked, count):
                        result["throughput"].append({"model": name, **row})
                        print(result["throughput"][-1], flush=True)
                alone = questions(name, 1, 4)[0]
                first, about = first_token(our, their, where, alone, 3 * count, options.threads)
                result["first_token"].append({"model": name, **first})
                result["conditions"] = result["conditions"] or {**about, "at_once": options.at_once}
                print(result["first_token"][-1], flush=True)
            if options.output:  # what there is, should the next model fail
                write(options.output, result)


def questions(name: str, count: int, tokens: int) -> list[Asked]:
    """What a model is asked."""
    if name in embedded_models():
        kinds = {"questions": None, "descriptions": ["caption"]}
        return [Asked(about, scenes.examples("test", n=count, kinds=kind), 40) for about, kind in kinds.items()]
    shown = [one.image.resize((336, 336)) for one in scenes.examples("test", n=count)]
    return [Asked(f"{tokens} tokens", [Example(image, WORDS) for image in shown], tokens)]


def throughput(our: openai.OpenAI, their: openai.OpenAI, where: Path, asked: Asked, count: int) -> list[dict[str, Any]]:
    """Seconds for a request of both servers, of ours one request at a time, and of the model by itself.

    The model by itself is `generate` in this process, on prompts that are ready: one batch of them all, and one after
    the other. What is gained between these is all that answering at once can gain on this machine.
    """
    bodies = asked.bodies()
    runs: dict[str, Callable[[], Run]] = {"transformers": lambda: answers(their, bodies, [str(where)], len(bodies))}
    model, processor = vtokens.load(str(where))
    prompts = [
        dict(encode_prompts(processor, [question_prompt(processor, one.question, 1)], [[one.image]]))
        for one in asked.examples
    ]
    batch, settings = Joiner(processor).join(prompts), GenerationConfig(max_new_tokens=asked.tokens, do_sample=False)

    def by_itself(specs: list[str], inputs: Sequence[Any]) -> Run:
        begun = time.perf_counter()
        rows = len(specs) // len(inputs)
        for number, one in enumerate(inputs):
            with handle.using(specs[number * rows : (number + 1) * rows]):
                model.generate(**one, generation_config=settings)
        return Run(time.perf_counter() - begun, [], [])

    for way, suffixes in WAYS.items():
        names = [f"{where.name}{suffix}" for suffix in suffixes]
        for width in (len(bodies), 1):
            runs[f"{way}, {width}"] = lambda names=names, width=width: answers(our, bodies, names, width)  # type: ignore[misc]
        presets = {"": "none", **{f":{name}": spec for name, spec in PRESETS.items()}}
        specs = [presets[suffix] for suffix, _ in zip(itertools.cycle(suffixes), bodies, strict=False)]
        runs[f"{way}, batch"] = lambda specs=specs: by_itself(specs, [batch])  # type: ignore[misc]
        runs[f"{way}, alone"] = lambda specs=specs: by_itself(specs, prompts)  # type: ignore[misc]
    for suffixes in WAYS.values():  # each once, to warm up
        answers(our, bodies[:2], [f"{where.name}{suffix}" for suffix in suffixes[-2:]], 2)
    answers(their, bodies[:1], [str(where)], 1)
    with vtokens.attach(model, "none") as handle:
        done = rounds(runs, count, warm_up=0)
    seconds = {name: [run.seconds / len(bodies) for run in found] for name, found in done.items()}
    rows = []
    for name, found in done.items():
        way, _, width = name.rpartition(", ")
        if width in ("batch", "alone"):
            continue
        row = {"asked": asked.about, "server": "vtokens" if way else name, "strategy": way or "none"}
        row["at_once"] = int(width) if way else len(bodies)
        row["tokens"] = sum(found[0].tokens) / len(bodies)
        row |= {"seconds": summary(seconds[name]), "times_transformers": ratio(seconds["transformers"], seconds[name])}
        if way:
            row["times_one_at_a_time"] = ratio(seconds[f"{way}, 1"], seconds[name])
            at_once = width != "1"
            row["model_by_itself"] = ratio(seconds[f"{way}, {'batch' if at_once else 'alone'}"], seconds[name])
            row["model_times_one_at_a_time"] = ratio(seconds[f"{way}, alone"], seconds[f"{way}, batch"])
        pairs = zip(done["transformers"], found, strict=True)
        same = [a == b for one, other in pairs for a, b in zip(one.texts, other.texts, strict=True)]
        rows.append(row | {"same_text": sum(same), "answers": len(same)})
    return rows


@dataclass(frozen=True)
class Run:
    """What came of a round of requests: how long they took together, and texts and tokens of each."""

    seconds: float
    texts: list[str]
    tokens: list[int]


def answers(client: openai.OpenAI, bodies: Sequence[dict[str, Any]], names: Sequence[str], width: int) -> Run:
    """Send requests, so many at once."""

    def ask(body: dict[str, Any], name: str) -> tuple[str, int]:
        answer = client.chat.completions.create(model=name, **body)
        return answer.choices[0].message.content or "", answer.usage.completion_tokens  # type: ignore[union-attr]

    with ThreadPoolExecutor(width) as pool:
        begun = time.perf_counter()
        got = list(pool.map(ask, bodies, itertools.cycle(names)))
        seconds = time.perf_counter() - begun
    return Run(seconds, [text for text, _ in got], [tokens for _, tokens in got])


def first_token(
    our: openai.OpenAI, their: openai.OpenAI, where: Path, asked: Asked, count: int, threads: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Seconds to the first token of a request by itself: of both servers, of the batcher, of `generate`, and ideal.

    The ideal speed-up is that of `generate` in this process, fed only what the strategy kept.
    """
    model, processor = vtokens.load(str(where))
    one, body = asked.examples[0], asked.bodies()[0]
    inputs = dict(encode_prompts(processor, [question_prompt(processor, one.question, 1)], [[one.image]]))
    settings = GenerationConfig(max_new_tokens=1, do_sample=False)
    with vtokens.attach(model, "none") as handle, Batcher(model, processor, handle, coming=Coming()) as batcher:

        def report() -> Any:
            with handle.using(SPEC):
                model.generate(**inputs, generation_config=settings)
                return handle.report()

        ideal = Ideal(model, inputs, batcher.alone(report).result())
        runs: dict[str, Callable[[], float]] = {
            "transformers": lambda: streamed(their, body, str(where)),
            "served": lambda: streamed(our, body, where.name),
            "served_pruned": lambda: streamed(our, body, f"{where.name}:tenth"),
            "batcher": lambda: _timed(lambda: answered(batcher, [Job(inputs, settings)])),
            "batcher_pruned": lambda: _timed(lambda: answered(batcher, [Job(inputs, settings, parse(SPEC))])),
            "plain": lambda: _timed(lambda: model.generate(**inputs, generation_config=settings)),
            "ideal": lambda: _timed(lambda: ideal.generate(generation_config=settings)),
        }
        taken = rounds(runs, count)
    possible = ratio(taken["plain"], taken["ideal"])
    row: dict[str, Any] = {"strategy": SPEC, "seconds": {name: summary(found) for name, found in taken.items()}}
    row["ideal_speed_up"] = possible
    for name in ("served", "batcher"):
        gained = [a / b for a, b in zip(taken[name], taken[f"{name}_pruned"], strict=True)]
        row[f"{name}_speed_up"] = summary(gained)
        row[f"{name}_of_ideal"] = ratio(gained, [a / b for a, b in zip(taken["plain"], taken["ideal"], strict=True)])
    clock = Clock(torch.device("cpu"), 2)
    return row, conditions(torch.device("cpu"), clock, model, draws=[0], threads_of_each=threads)


def streamed(client: openai.OpenAI, body: dict[str, Any], name: str) -> float:
    """Seconds until the first text of a streamed answer; the rest is read too."""
    begun, first = time.perf_counter(), None
    for chunk in client.chat.completions.create(model=name, stream=True, **body):
        if first is None and any(choice.delta.content for choice in chunk.choices):
            first = time.perf_counter() - begun
    if first is None:
        raise RuntimeError(f"{name} answered with nothing")
    return first


def _timed(run: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def _messages(image: Any, question: str) -> list[dict[str, Any]]:
    held = io.BytesIO()
    image.save(held, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(held.getvalue()).decode()}"
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}]
    return [{"role": "user", "content": parts}]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["scenes-llava", "llava-300m"])
    parser.add_argument("--rounds", type=int, help="that count (15 of embedded models, 3 of others)")
    parser.add_argument("--tokens", type=int, default=8, help="of an answer of a model with random weights")
    parser.add_argument("--at-once", type=int, default=8, help="requests")
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--output", type=Path, help="folder for the tables")
    return parser.parse_args()


if __name__ == "__main__":
    main()
