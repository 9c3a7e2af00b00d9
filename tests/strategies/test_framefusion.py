"""`framefusion`: what a budget leaves for the next layer, merging by plain loops, one prune by attention, mean cost."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

import vtokens
from tests.engine.cases import model
from tests.strategies.videos import (
    FAMILIES,
    SHAPES,
    batch,
    by_hand,
    check_batch_equals_alone,
    moved,
    seen,
)
from vtokens.core.budget import budget
from vtokens.strategies import parse
from vtokens.strategies.merge.framefusion import FrameFusion, _sparsity


@pytest.mark.parametrize(("dropped", "left"), [((), 0.7), ((0.2,), 0.648), ((0.2, 0.1), 0.632), ((0.5, 0.3), 0.170)])
def test_what_the_budget_leaves(dropped: tuple[float, ...], left: float) -> None:
    """The worked numbers of the release: 28 layers, a cost of 0.3."""
    shares, now = [], 1.0
    for part in dropped:
        now *= 1 - part
        shares.append(now)
    assert _sparsity(shares, 0.3, 28, now) == pytest.approx(left, abs=5e-4)


def expected(x: Tensor, _: Tensor, strategy: FrameFusion) -> tuple[list[int], Tensor]:
    """What merging before layer 0 leaves of a video (T, P, D), in float64: pairs by falling cosine, then runs."""
    x, (t, p, _) = x.double(), x.shape
    like = {(f, n): float(torch.cosine_similarity(x[f, n], x[f - 1, n], dim=0)) for f in range(1, t) for n in range(p)}
    order = sorted((at for at in like if like[at] >= strategy.alike), key=lambda at: -like[at])
    joins = set(order[: int(t * p * (1 - strategy.keep) + 1e-9)])
    runs: dict[tuple[int, int], list[Tensor]] = {}
    for n in range(p):
        head = 0
        for f in range(t):
            head = head if (f, n) in joins else f
            runs.setdefault((head, n), []).append(x[f, n])
    stays = sorted(runs)
    return [f * p + n for f, n in stays], torch.stack([torch.stack(runs[at]).mean(0) for at in stays])


STRATEGIES = st.builds(FrameFusion, keep=st.floats(0.26, 0.95), alike=st.floats(-0.5, 0.95))
test_merging_as_worked_out_by_hand = by_hand(STRATEGIES, expected)


def layers(family: str, given: dict[str, Any], spec: str) -> list[list[list[int]]]:
    """For each video: the tokens that each layer sees."""
    target = model(family, "pruned")
    with torch.no_grad(), vtokens.attach(target, spec) as handle:
        target(**given)
        parts = [part for sample in handle.report().samples for part in sample.pictures]
    return [[one.tolist() for one in part.kept] for part in parts]


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_see_the_share_on_average(family: str) -> None:
    """Whatever could be merged, as far as a layer has whole tokens; fewer in each layer than in the one before."""
    given = batch(family, SHAPES)
    totals = [len(tokens) for tokens, _ in seen(family, given)]
    for spec, keep in (("keep=0.6", 0.6), ("keep=0.7, alike=0.99", 0.7), ("keep=0.5, alike=0.95, stop=0.0", 0.5)):
        for one, total in zip(layers(family, given, f"framefusion({spec})"), totals, strict=True):
            counts = [len(kept) for kept in one]
            assert counts == sorted(counts, reverse=True)
            assert keep * total * 4 - 1e-6 <= sum(counts)
            if "stop" not in spec:
                assert sum(counts) <= keep * total * 4 + 4


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_what_is_not_alike_is_pruned_once(family: str) -> None:
    """Nothing is merged, so that merging ends, and layer 1 keeps what all rows of layer 0 attend to most."""
    given = batch(family, [(4, 2, 2)])
    matrix = model(family, "plain", "eager")(**given, output_attentions=True).attentions[0][0]
    fed = (given["input_ids"][0] == model(family, "plain").config.video_token_id).nonzero().flatten()
    fed = fed[:16]  # a newline stands behind the tokens of OneVision
    (one,) = layers(family, given, "framefusion(keep=0.5, alike=1.0)")
    assert len(one[0]) == 16
    left = 16 - int(16 * (1 - (4 * 0.5 - 1) / 3))
    assert one[1] == sorted(matrix.mean((0, 1))[fed].topk(left).indices.tolist())
    assert one[1] == one[2] == one[3]


@pytest.mark.parametrize("family", FAMILIES)
def test_on_genuine_models(family: str) -> None:
    """A batch answers as each video does alone; what is merged are means."""
    for spec in ("framefusion(keep=0.5, alike=0.9)", "framefusion(keep=0.3)"):
        check_batch_equals_alone(family, spec)
    assert max(changed for *_, changed in moved(family, "framefusion(keep=0.5)")) > 1e-3


def test_a_spatial_pruner_between_leaves_the_budget_unspent() -> None:
    """What another strategy drops counts: nothing is left to merge."""
    for one, (t, h, w) in zip(
        layers("qwen2_vl", batch("qwen2_vl", SHAPES), "framefusion(keep=0.6)+uniform(keep=0.3, of=original)"), SHAPES,
        strict=True,
    ):  # fmt: skip
        assert [len(kept) for kept in one] == [budget(t * h * w, 0.3)] * 4


@pytest.mark.parametrize("spec", ["framefusion(alike=1.5)", "framefusion(stop=-0.1)"])
def test_settings_out_of_range(spec: str) -> None:
    with pytest.raises(ValueError, match="is out of range"):
        parse(spec)


def hybrid() -> tuple[Any, dict[str, Any]]:
    """A model of whose four layers 1 and 3 have attention, and a video of 16 tokens for it."""
    target, given = model("qwen3_5", "pruned"), batch("qwen3_vl", [(4, 2, 2)])
    videos = given["input_ids"] == model("qwen3_vl", "plain").config.video_token_id
    given["input_ids"] = torch.where(videos, target.config.video_token_id, given["input_ids"])
    return target, given


@torch.no_grad()
def test_the_prune_waits_for_a_layer_with_attention() -> None:
    """Layer 2 is the first one that can be pruned by attention."""
    target, given = hybrid()
    with vtokens.attach(target, "framefusion(keep=0.7, alike=1.0)") as handle:
        target(**given)
        (part,) = handle.report().samples[0].pictures
    counts = [len(kept) for kept in part.kept]
    assert counts[0] == counts[1] == 16 > counts[2] == counts[3] == 7  # (0.7 * 4 - 2) / 2 of them, 6.4


@pytest.mark.parametrize(("family", "first"), [("qwen2_vl", 1), ("qwen3_5", 2)])
@torch.no_grad()
def test_what_is_spent_before_the_first_prune_is_refused(family: str, first: int) -> None:
    """A share at attach, a count in the pass; the next ones up are taken, and cost what they say."""
    target, given = hybrid() if family == "qwen3_5" else (model(family, "pruned"), batch(family, [(4, 2, 2)]))
    for keep in (first / 4, first / 4 - 0.1):
        with pytest.raises(ValueError, match=rf"is layer {first}, .* A share above {first}/4 = {first / 4:.3g} is all"):
            vtokens.attach(target, f"framefusion(keep={keep}, alike=1.0)")
    says = f"keep={first * 4} was spent .* of 16 tokens: .* {first * 4 + 1} or more"
    with vtokens.attach(target, f"framefusion(keep={first * 4}, alike=1.0)"), pytest.raises(ValueError, match=says):
        target(**given)
    for keep in (first * 4 + 1, first / 4 + 0.0625):
        with vtokens.attach(target, f"framefusion(keep={keep}, alike=1.0)") as handle:
            target(**given)
            (part,) = handle.report().samples[0].pictures
        spent = sum(len(kept) for kept in part.kept)
        assert first * 16 < (first * 4 + 1) * 4 <= spent <= (first * 4 + 1) * 4 + 4
