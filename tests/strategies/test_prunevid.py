"""`prunevid`: segments, means of what stands still, density peaks, and what the question attends to, by plain loops."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import vtokens
from tests.engine.cases import model
from tests.kernels.test_density_peaks import peaks
from tests.strategies.videos import (
    FAMILIES,
    SHAPES,
    batch,
    by_hand,
    check_batch_equals_alone,
    check_pruned_equals_masked,
    kept,
    moved,
    video,
)
from vtokens.core.budget import budget
from vtokens.strategies import parse
from vtokens.strategies.merge.prunevid import PruneVid, _contiguous


def runs(labels: list[int]) -> list[tuple[int, int]]:
    """First frame and length of each run of equal labels."""
    found: list[tuple[int, int]] = []
    for frame, label in enumerate(labels):
        if frame and labels[frame - 1] == label:
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((frame, 1))
    return found


def contiguous(labels: list[int]) -> list[int]:
    """Longest runs stay, all else joins the longer neighbour, from left to right."""
    whole, labels = list(labels), list(labels)
    for first, size in runs(whole):
        longest = max(n for at, n in runs(whole) if whole[at] == whole[first])
        if size < longest or size == 1:
            labels[first : first + size] = [-1] * size
    while -1 in labels:
        parts = runs(labels)
        which = next(n for n, (first, _) in enumerate(parts) if labels[first] == -1)
        first, size = parts[which]
        left = parts[which - 1] if which else (0, 0)
        right = parts[which + 1] if which + 1 < len(parts) else (0, 0)
        label = 0 if left[1] == right[1] == 0 else labels[left[0] if left[1] >= right[1] else right[0]]
        labels[first : first + size] = [label] * size
    return labels


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.integers(0, 3))
def test_clusters_are_made_contiguous(labels: list[int], behind: int) -> None:
    """Clusters are called by a frame; frames of padding behind a shorter video have no say."""
    labels = [min(one, len(labels) - 1) for one in labels]
    there = torch.arange(len(labels) + behind)[None] < len(labels)
    got = _contiguous(torch.tensor([labels + [-1] * behind]), there)[0, : len(labels)].tolist()
    assert runs(got) == runs(contiguous(labels))


def test_runs_of_one_frame_are_no_segments() -> None:
    """The reference itself: the longer neighbour takes the frame between, the earlier of equal ones."""
    assert contiguous([0, 0, 1, 2, 2, 2]) == [0, 0, 2, 2, 2, 2]
    assert contiguous([0, 0, 1, 2, 2]) == [0, 0, 0, 2, 2]
    assert contiguous([0, 1, 2]) == [0, 0, 0]
    assert contiguous([1, 1, 0, 0, 0, 1]) == [1, 1, 0, 0, 0, 0]


def nearest(x: list[Tensor], centres: list[int], n: int) -> int:
    return n if n in centres else min(centres, key=lambda c: (round(float((x[n] - x[c]).norm()), 9), c))


def expected(x: Tensor, _: Tensor, strategy: PruneVid) -> tuple[list[int], Tensor]:
    """The tokens that merging leaves of a video (T, P, D), and what becomes of them, in float64."""
    x, (t, p, _) = x.double(), x.shape
    frames = [frame.mean(0) for frame in x]
    score = peaks(frames, 7)
    centres = sorted(range(t), key=lambda n: -score[n])[: max(1, int(t * strategy.segments))]
    parts = runs(contiguous([nearest(frames, centres, n) for n in range(t)]))
    sets: list[dict[tuple[int, int], Tensor]] = []
    repeats: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for first, size in parts:
        pairs = list(combinations(range(first, first + size), 2))
        still = [
            n
            for n in range(p)
            if pairs
            and sum(float(torch.cosine_similarity(x[a, n], x[b, n], dim=0)) for a, b in pairs) / len(pairs)
            > strategy.alike
        ]
        sets.append({(first, n): x[first : first + size, n].mean(0) for n in still})
        repeats |= {(first, n): [(f, n) for f in range(first + 1, first + size)] for n in still}
        sets += [{(f, n): x[f, n] for n in range(p) if n not in still} for f in range(first, first + size)]
    alpha = strategy.keep**0.5 if strategy.alpha is None else strategy.alpha
    count = max(budget(t * p, strategy.keep), budget(t * p, min(1.0, strategy.keep / alpha)))
    ratio = min(1.0, count / sum(map(len, sets)))
    order = []
    for one in sets:
        ranked = dict(zip(one, peaks(list(one.values()), 7), strict=True))
        best = sorted(one, key=lambda at: -ranked[at])
        order += [(round(place - len(one) * ratio, 4), at) for place, at in enumerate(best)]
    chosen = [at for _, at in sorted(order)][:count]
    again = sorted(at for one in repeats.values() for at in one)[: count - len(chosen)]
    states = {at: x[at] for at in again}
    for one in sets:
        places, mean = list(one), list(one.values())
        for at, own in repeats.items():
            if at in one:  # a repeat that stays is no part of a mean
                mean[places.index(at)] = torch.stack([x[b] for b in (at, *own) if b not in again]).mean(0)
        centres = [n for n, at in enumerate(places) if at in chosen]
        if centres:
            near = [nearest(list(one.values()), centres, n) for n in range(len(places))]
            for c in centres:
                states[places[c]] = torch.stack([mean[n] for n in range(len(places)) if near[n] == c]).mean(0)
    stays = sorted(states)
    return [f * p + n for f, n in stays], torch.stack([states[at] for at in stays])


STRATEGIES = st.builds(
    PruneVid, keep=st.floats(0.05, 0.95), alike=st.floats(-0.5, 0.95), segments=st.floats(0.1, 1),
    alpha=st.none() | st.floats(0.3, 1),
)  # fmt: skip
test_merging_as_worked_out_by_hand = by_hand(STRATEGIES, expected)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_the_question_chooses(family: str) -> None:
    """Where merging leaves all, a full-length model says which tokens any head attends to most in any row of text."""
    given, shape = batch(family, [(4, 2, 2)]), (4, 2, 2)
    plain = model(family, "plain", "eager")(**given, output_attentions=True).attentions[1][0]
    fed = (given["input_ids"][0] == model(family, "plain").config.video_token_id).nonzero().flatten()
    text = [n for n in range(int(fed[0]), given["input_ids"].shape[1]) if n not in fed.tolist()]
    target = model(family, "pruned")
    with vtokens.attach(target, "prunevid(keep=0.3, alpha=0.3, layer=2)") as handle:
        target(**given)
        (part,) = handle.report().samples[0].pictures
    places = fed[: len(part.kept[0])] if family != "llava_onevision" else fed[part.picture.view >= 0]
    most = plain[:, text][:, :, places].amax((0, 1))
    assert len(part.kept[1]) == len(places)
    assert part.kept[2].tolist() == sorted(most.topk(budget(len(places), 0.3)).indices.tolist())
    assert len(places) == (shape[0] * shape[1] * shape[2])
    check_pruned_equals_masked(family, "prunevid(keep=0.3, alpha=0.3, layer=2)")


@pytest.mark.parametrize("family", FAMILIES)
def test_on_genuine_models(family: str) -> None:
    """Exact counts at both steps, and a batch that answers as each video does alone; some tokens are means."""
    spec = "prunevid(keep=0.25, alike=0.3, layer=3)"
    check_batch_equals_alone(family, spec)
    whole, target = batch(family, SHAPES), model(family, "pruned")
    with torch.no_grad(), vtokens.attach(target, spec) as handle:
        target(**whole)
        parts = [part for sample in handle.report().samples for part in sample.pictures]
    found = moved(family, spec)
    for (total, left, _), part in zip(found, parts, strict=True):
        assert left == budget(total, 0.5)
        assert [len(part.kept[layer]) for layer in (2, 3)] == [left, budget(total, 0.25)]
    assert max(changed for *_, changed in found) > 1e-3


def test_a_still_video_keeps_one_frame_at_most() -> None:
    """Rounding of equal tokens is no difference; the budget fills up with repeats."""
    still = video((1, 3, 3), 1).expand(6, 3, 3, -1).contiguous()
    noise = 1 + 1e-7 * torch.randn(still.shape, generator=torch.Generator().manual_seed(0))
    alone, beside = [[("video", still * noise)]], [[("video", still * noise)], [("video", video((9, 4, 2), 2))]]
    assert max(kept(PruneVid(5, alpha=1.0), alone)[0]) < 9
    assert kept(PruneVid(5, alpha=1.0), alone)[0] == kept(PruneVid(5, alpha=1.0), beside)[0]
    for rows in (alone, beside):
        assert kept(PruneVid(12, alpha=1.0), rows)[0] == list(range(12))


def test_images_stay_whole() -> None:
    assert kept(PruneVid(0.1), [[("image", video((1, 3, 3), 0))]]) == [list(range(9))]


@pytest.mark.parametrize("spec", ["alike=1.5", "segments=0.0", "alpha=0.0", "alpha=1.5"])
def test_settings_out_of_range(spec: str) -> None:
    with pytest.raises(ValueError, match="is out of range"):
        parse(f"prunevid({spec})")


@pytest.mark.parametrize("layer", [0, 4])
def test_a_layer_that_is_not_there_is_refused(layer: int) -> None:
    target: Any = model("qwen2_vl", "pruned")
    with pytest.raises(ValueError, match=r"layer=. is out of range for a model with 4 layers"):
        vtokens.attach(target, f"prunevid(layer={layer})")
