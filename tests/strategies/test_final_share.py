"""One `keep` for a temporal and a spatial pruner is the share that both together leave."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import vtokens
from tests.engine.cases import model
from tests.engine.test_deepstack import mixed
from tests.strategies.videos import SHAPES, batch, seen
from vtokens.core.budget import budget, shares
from vtokens.strategies import StagedPruner, VideoPruner, format_spec, get, list_strategies, parse
from vtokens.strategies.prune.evs import Evs
from vtokens.strategies.prune.todre import Todre

TEMPORAL = [name for name in list_strategies() if issubclass(get(name), VideoPruner)]
SPATIAL = [  # not what modifies the pruner before it, nor what has its last stage later
    name
    for name in list_strategies()
    if "of" in vtokens.describe(name).fields and get(name).alone is None and not issubclass(get(name), StagedPruner)
]


def test_the_first_leaves_the_square_root() -> None:
    strategies = parse("evs+todre(objective=kcenter)", keep=0.1)
    assert strategies == (Evs(0.3162), Todre(0.1, objective="kcenter", of="original"))
    assert parse(format_spec(strategies)) == strategies
    assert parse("evs+todre", keep=1.0) == (Evs(1.0), Todre(1.0, of="original"))
    assert parse("evs+todre(keep=0.5)", keep=0.1) == (Evs(0.1), Todre(0.5))


@given(st.floats(1e-30, 1, exclude_min=True), st.sampled_from(TEMPORAL), st.sampled_from(SPATIAL))
def test_any_pair_takes_any_share(keep: float, first: str, second: str) -> None:
    time, space = parse(f"{first}+{second}", keep=keep)
    assert space.keep == keep <= time.keep  # type: ignore[attr-defined]
    assert time.keep**2 == pytest.approx(keep, rel=1e-3)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("spec", "keep", "says"),
    [
        ("evs+todre", 8, r"keep=8 is a count.*'evs\(keep=0.3\)\+todre\(keep=8\)'"),
        ("todre+evs", 0.1, r"what drops over time comes first, write 'evs\+todre'"),
        ("evs+vidcom2", 0.1, "keep=0.1 is ambiguous: evs, vidcom2"),
        ("evs+cls+todre", 0.1, "keep=0.1 is ambiguous: evs, cls, todre"),
        ("evs+todre(of=left)", 0.1, "leave of='left' out"),
        ("evs+todre", 1.5, r"keep=1.5 is out of range"),
    ],
)
def test_what_cannot_be_shared_is_refused(spec: str, keep: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse(spec, keep=keep)


@torch.no_grad()
@pytest.mark.parametrize("spec", [f"{first}+{second}" for first in TEMPORAL for second in SPATIAL])
def test_what_is_left_is_the_share_asked_for(spec: str) -> None:
    """Of every video and of an image beside one, which the temporal pruner leaves whole."""
    layer = max(2, getattr(get(spec.split("+")[1]), "layer", 2))  # from which on both have acted
    for family, inputs in (("qwen2_5_vl", batch("qwen2_5_vl", SHAPES)), ("qwen3_vl", mixed())):
        target = model(family, "pruned")
        with vtokens.attach(target, spec, keep=0.3) as handle:
            target(**inputs)
            report = handle.report()
        assert report.strategy == format_spec(parse(spec, keep=0.3))
        parts = [part for sample in report.samples for part in sample.pictures]
        assert [len(part.kept[layer]) for part in parts] == [budget(part.picture.tokens, 0.3) for part in parts]
        first, second = report.contributions
        if first.tokens is None and spec.startswith("framefusion"):
            continue  # nothing was alike enough to merge before the decoder
        assert first.tokens is not None
        assert second.tokens is not None
        assert first.tokens[0] > first.tokens[1] == second.tokens[0] > second.tokens[1]


@torch.no_grad()
@pytest.mark.parametrize("first", TEMPORAL)
@pytest.mark.parametrize("of", ["left", "original"])
def test_a_budget_for_each_frame_of_what_is_left(first: str, of: str) -> None:
    """The video's own count, shared out over its frames in proportion to what the temporal pruner left of each."""
    target = model("qwen2_5_vl", "pruned")

    def parts(spec: str) -> list[Any]:
        with vtokens.attach(target, spec) as handle:
            target(**batch("qwen2_5_vl", SHAPES))
            return [part for sample in handle.report().samples for part in sample.pictures]

    alone = parts(f"{first}(keep=0.7)")
    both = parts(f"{first}(keep=0.7)+cls(keep=0.4, budget=per_frame, of={of})")
    for (t, h, w), before, after in zip(SHAPES, alone, both, strict=True):
        there = [sum(int(n) // (h * w) == frame for n in before.kept[0]) for frame in range(t)]
        total = min(sum(there), budget(sum(there) if of == "left" else t * h * w, 0.4))
        stays = [sum(int(n) // (h * w) == frame for n in after.kept[0]) for frame in range(t)]
        assert {*after.kept[0].tolist()} <= {*before.kept[0].tolist()}
        assert stays == shares(total, there)


@torch.no_grad()
@pytest.mark.parametrize("first", TEMPORAL)
def test_a_budget_for_the_prompt(first: str) -> None:
    """The video and the image of a prompt share what both may keep: of what the first left, the most salient tokens."""
    target, inputs = model("qwen3_vl", "pruned"), mixed()

    def parts(spec: str) -> list[Any]:
        with vtokens.attach(target, spec) as handle:
            target(**inputs)
            return list(handle.report().samples[0].pictures)

    left, found = parts(f"{first}(keep=0.7)"), parts(f"{first}(keep=0.7)+cls(keep=0.3, budget=global, of=original)")
    ranked = sorted(
        (-float(salience[token]), picture, int(token))
        for picture, (part, (_, salience)) in enumerate(zip(left, seen("qwen3_vl", inputs), strict=True))
        for token in part.kept[0]
    )
    total = sum(budget(part.picture.tokens, 0.3) for part in left)
    best = sorted(key[1:] for key in ranked[:total])
    assert [(picture, int(token)) for picture, part in enumerate(found) for token in part.kept[0]] == best
    assert {part.picture.modality for part in left} == {"image", "video"}
