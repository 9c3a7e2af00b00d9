"""torch.compile of the decode step: as many graphs as without strategies, compiled once, and the same answers.

transformers compiles steps over static caches by itself, on devices that it thinks fast enough and wherever a
`CompileConfig` asks for it; users compile `forward`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CompileConfig

import vtokens
from tests.engine.cases import SHARES, SIZES, model, share
from tests.engine.compare import DETAILS, check_tokens, one, ragged
from tests.families import EVERY, build, image, inputs
from tests.filter.traced import ask, distances, fixed
from vtokens.filter.trace.passes import generate
from vtokens.filter.trace.trace import Parts
from vtokens.strategies import Selection, Strategy, Visuals

SHALLOW = {"num_hidden_layers": 3}
"""Enough for a pruner inside of the decoder; a graph takes as long to make as it has layers."""
NEW = 13
STEPS = NEW - 1
PRUNERS = ("none", "cls(keep=0.25)", "fastv(keep=0.3, layer=2)", "cls(keep=0.5)+fastv(keep=2, layer=1)")
made: list[int] = []
ran: list[int] = []


def counting(graph: torch.fx.GraphModule, example: Any) -> Any:
    """A back end that notes each graph, and each time that it runs."""
    number = len(made)
    made.append(number)

    def run(*args: Any) -> Any:
        ran.append(number)
        return graph(*args)

    return run


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    with torch.no_grad():
        yield
    torch._dynamo.reset()


def compiled(backend: Any = counting, **options: Any) -> dict[str, Any]:
    """Options of `generate` under which steps are compiled on a CPU too."""
    config = CompileConfig(backend=backend, mode=None, **options)
    config._compile_all_devices = True
    return {"cache_implementation": "static", "compile_config": config}


def answers(target: Any, batch: dict[str, Any], new: int = NEW, **options: Any) -> tuple[Any, int, int]:
    """What is generated, the graphs made for it, and how often graphs ran."""
    before = len(made), len(ran)
    output = target.generate(**batch, do_sample=False, max_new_tokens=new, min_new_tokens=new, **DETAILS, **options)
    return output, len(made) - before[0], len(ran) - before[1]


def pictures(family: str) -> list[dict[str, Any]]:
    """Prompts that keep different numbers of tokens, of which fewest are dropped first."""
    texts = ("Look: <image> what is it?", "What is <image> and what is <image> for?", "<image><image><image> and?")
    return [
        dict(inputs(family, [text], [[image(60 + 30 * i, 90, seed=i) for i in range(text.count("<image>"))]]))
        for text in texts
    ]


@pytest.mark.parametrize(("family", "attention"), [("llava", "sdpa"), ("qwen2_vl", "eager")])
def test_steps_take_as_many_graphs_as_without_strategies(family: str, attention: str) -> None:
    """All in one graph, which serves prompts of other lengths, of which other numbers are kept."""
    target, batches = build(family, attn_implementation=attention)[0], pictures(family)
    for spec in (None, *PRUNERS):
        torch._dynamo.reset()
        kept = set()
        with nullcontext() if spec is None else vtokens.attach(target, spec) as handle:
            for turn, batch in enumerate(batches):
                output, graphs, runs = answers(target, batch, **compiled(fullgraph=True), max_cache_len=188)
                assert (graphs, runs) == (int(turn == 0), STEPS), spec
                check_tokens(output, answers(target, batch)[0], NEW)
                kept.add(spec and handle.report().samples[0].positions[-1].shape)
        assert spec is None or len(kept) >= 2


@dataclass(frozen=True)
class Census(Strategy):
    """Keeps another number of tokens of each picture, drawn at random."""

    name: ClassVar[str] = "census"
    seed: int = 0

    def at_prompt(self, visuals: Visuals) -> Selection:
        drawn = torch.Generator().manual_seed(self.seed + visuals.valid.numel())
        rank = torch.rand(visuals.valid.shape, generator=drawn).masked_fill(~visuals.valid, 2.0).argsort(1).argsort(1)
        counts = [1 + int(torch.randint(count, (1,), generator=drawn)) for count in visuals.counts]
        return Selection(rank < torch.tensor(counts)[:, None], tuple(counts))


@st.composite
def sized(draw: st.DrawFn) -> Any:
    """A pruner of any of the kinds, with what it keeps drawn."""
    kind, share_, layer = (
        draw(st.sampled_from(["cls", "fastv", "both", "census"])),
        draw(SHARES),
        draw(st.integers(1, 3)),
    )
    first, second = f"cls(keep={share_})", f"fastv(keep={draw(SHARES)}, layer={layer})"
    return {"cls": first, "fastv": second, "both": f"{first}+{second}", "census": Census(draw(st.integers(0, 99)))}[
        kind
    ]


def needed(report: vtokens.Report, new: int) -> list[int]:
    """Slots of each layer for what is kept of a batch and for the answer, in sixteens."""
    lengths = [[len(positions) for positions in sample.positions] for sample in report.samples]
    return [-(-(max(layer) + new - 1) // 16) * 16 for layer in zip(*lengths, strict=True)]


@pytest.mark.fuzz
@settings(max_examples=-(-share(4) // 25))  # each compiles twice
@given(
    family=st.sampled_from(EVERY),
    spec=sized(),
    turns=st.lists(st.lists(st.sampled_from(SIZES), min_size=1, max_size=2), min_size=1, max_size=3),
    rows=st.integers(1, 3),
    words=st.lists(st.integers(0, 9), min_size=3, max_size=3),
)
def test_graphs_drawn(family: str, spec: Any, turns: list[Any], rows: int, words: list[int]) -> None:
    """Whatever is kept of however many prompts: the graphs of the plain model, one more if one needs more slots."""
    target, new = model(family, "compiled"), 4
    batches = []
    for turn, sizes in enumerate(turns):
        pictures = [[image(*size, seed=turn + row) for size in sizes[: 1 + row % 2]] for row in range(rows)]
        texts = ["Look" + " well" * ((words[turn] + row) % 7) for row in range(rows)]
        batches.append(dict(inputs(family, texts, pictures)))
    room = 16 + max(batch["input_ids"].shape[1] for batch in batches)

    def counted() -> tuple[int, list[Any]]:
        torch._dynamo.reset()
        found, graphs = [], 0
        for batch in batches:
            output, made, runs = answers(target, batch, new, **compiled(fullgraph=True), max_cache_len=room)
            assert runs == new - 1
            graphs += made
            found.append(output)
        return graphs, found

    plain, _ = counted()
    with vtokens.attach(target, spec if isinstance(spec, str) else (spec,)) as handle:
        graphs, found = counted()
        slots = []
        for batch, output in zip(batches, found, strict=True):
            check_tokens(output, answers(target, batch, new)[0], new)
            slots.append(needed(handle.report(), new))
    more = any(later > first for other in slots[1:] for later, first in zip(other, slots[0], strict=True))
    assert graphs <= plain + more


def test_a_prompt_that_needs_more_slots_is_compiled_for_once_more() -> None:
    """Fewer tokens were dropped of it, so that more of the caller's room is left; from then on it gets all of that."""
    target, batches = build("qwen2_5_vl")[0], pictures("qwen2_5_vl")
    with vtokens.attach(target, "cls(keep=1)"):
        found = [answers(target, batches[i], 3, **compiled(), max_cache_len=128)[1] for i in (2, 1, 0, 2)]
    assert found == [1, 1, 0, 0]


def test_batches_and_rows_of_their_own_program() -> None:
    """Padding, beams, and programs by row need no more graphs than the batch does without them."""
    target, batch = build("qwen2_vl")[0], ragged("qwen2_vl")
    for options in ({}, {"num_beams": 3}):
        plain = [answers(target, batch, **compiled(), **options)[1:] for _ in range(2)]
        with (
            vtokens.attach(target, "none") as handle,
            handle.using(["cls(keep=0.3)", "fastv(keep=0.4, layer=2)", "none"]),
        ):
            for expected in plain:
                output, *found = answers(target, batch, **compiled(), **options)
                assert tuple(found) <= expected
            check_tokens(output, answers(target, batch, **options)[0], NEW)


@pytest.mark.parametrize("spec", ["cls(keep=0.5)+vhr", "dymu(thresholds=(0.2, 0.2, 0.2))", "cls(keep=0.3)+census"])
def test_strategies_that_act_in_every_step_run_beside_the_graphs(spec: str) -> None:
    target, batch = build("llava")[0], one("llava")
    with vtokens.attach(target, spec):
        check_tokens(answers(target, batch, 4, **compiled())[0], answers(target, batch, 4)[0], 4)


def test_what_was_compiled_before_is_not_used_for_what_is_attached_since() -> None:
    """Nor for what is detached, or joined for a while."""
    target, processor = build("llava", text_config=SHALLOW)
    asked, options = ask(processor), fixed(processor, 4)
    batch, parts = one("llava"), Parts(layers=frozenset({1}), states=frozenset({2}))
    expected = generate(target, processor, *asked, parts, **options)
    for spec in (None, "vhr", "cls(keep=0.3)", "pai", None):
        with nullcontext() if spec is None else vtokens.attach(target, spec):
            check_tokens(answers(target, batch, 3, **compiled())[0], answers(target, batch, 3)[0], 3)
    traces = generate(target, processor, *asked, parts, **options, **compiled())
    for mine, theirs in zip(traces, expected, strict=True):
        assert max(distances(mine, theirs).values()) < 2e-4


@pytest.mark.parametrize("cache", [None, pytest.param("static", marks=pytest.mark.slow)])
def test_a_forward_that_the_caller_compiles(cache: str | None) -> None:
    """Prompts are read in pieces, steps in one graph; nothing is compiled when they come again."""
    target, batch = build("llava")[0], ragged("llava")
    with vtokens.attach(target, "cls(keep=0.5)+fastv(keep=0.5, layer=2)"):
        expected = answers(target, batch, 4)[0]
        target.forward = torch.compile(target.forward, backend=counting)
        for turn in range(3):
            got, graphs, _ = answers(target, batch, 4, cache_implementation=cache)
            check_tokens(got, expected, 4)
            assert turn < 2 or graphs == 0
    del target.forward


@pytest.mark.slow
def test_inductor_compiles_the_step() -> None:
    target, batch = build("llava", text_config=SHALLOW)[0], one("llava")
    with vtokens.attach(target, "cls(keep=0.5)+fastv(keep=0.5, layer=1)"):
        expected = answers(target, batch, 5)[0]
        check_tokens(answers(target, batch, 5, **compiled("inductor", fullgraph=True))[0], expected, 5)
