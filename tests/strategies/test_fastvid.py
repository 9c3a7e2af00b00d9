"""`fastvid`: segments, salient tokens, and centres that others of the segment go into, worked out by plain loops."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from tests.kernels.test_density_peaks import peaks
from tests.limits import close
from tests.strategies.videos import (
    FAMILIES,
    SHAPES,
    batch,
    by_hand,
    check_batch_equals_alone,
    entered,
    kept,
    seen,
    video,
)
from vtokens.core.budget import budget
from vtokens.strategies import parse
from vtokens.strategies.merge.fastvid import FastVid


def cuts(x: Tensor, strategy: FastVid) -> list[int]:
    """The segment of each frame."""
    mean = x.mean(1)
    alike = [float(torch.cosine_similarity(a, b, dim=0)) for a, b in pairwise(mean)]
    least = sorted(range(len(alike)), key=lambda n: alike[n])[: strategy.segments - 1]
    part = [0]
    for n, value in enumerate(alike):
        part.append(part[-1] + (n in least or value < strategy.alike))
    return part


def expected(x: Tensor, salience: Tensor, strategy: FastVid) -> tuple[list[int], Tensor]:
    """The tokens that stay of a video (T, P, D), and what becomes of them, in float64."""
    x, (t, p, _) = x.double(), x.shape
    count = budget(t * p, strategy.keep)
    each = count // t - int(count // t * strategy.context)
    pool, part = count - t * each, cuts(x, strategy)
    salient, quota, peak = set(), {}, {}
    for frame in range(t):
        own = sorted(range(p), key=lambda n: -float(salience[frame, n]))
        salient |= {(frame, n) for n in own[:each]}
        rest = sorted(own[each:])
        score = dict(zip(rest, peaks([x[frame, n] for n in rest]), strict=True))
        frames = [n for n in range(t) if part[n] == part[frame]]
        if (frames[-1] - frame) % strategy.period == 0:
            quota[frame] = pool * len(frames) // (t * -(-len(frames) // strategy.period))
            peak[frame] = sorted(rest, key=lambda n: -score[n])
    order = sorted((rank - quota[frame], frame, n) for frame, own in peak.items() for rank, n in enumerate(own))
    centres = [(frame, n) for _, frame, n in sorted(order, key=lambda one: (one[0], one[1] * p + one[2]))][:pool]
    others = [(f, n) for f in range(t) for n in range(p) if (f, n) not in salient and f not in peak]
    others = sorted(others, key=lambda one: (-float(salience[one]), one))[: count - t * each - len(centres)]
    stays = sorted([*salient, *centres, *others])
    goes = {centre: [centre] for centre in centres}
    for f, n in ((f, n) for f in range(t) for n in range(p) if (f, n) not in stays):
        near = sorted(c for c in centres if part[c[0]] == part[f])
        if near:
            goes[max(near, key=lambda c: float(torch.cosine_similarity(x[f, n], x[c], dim=0)))].append((f, n))
    states = []
    for one in stays:
        members = goes.get(one, [])
        own = max(1 / (len(members) + 1), strategy.own) if members else 1.0
        mean = torch.stack([x[m] for m in members]).mean(0) if members else 0.0
        states.append(own * x[one] + (1 - own) * mean)
    return [f * p + n for f, n in stays], torch.stack(states)


STRATEGIES = st.builds(
    FastVid, keep=st.floats(0.05, 0.95), context=st.floats(0, 1), segments=st.integers(1, 4), alike=st.floats(-1, 0.9),
    period=st.integers(1, 5), own=st.floats(0, 1),
)  # fmt: skip
test_as_worked_out_by_hand = by_hand(STRATEGIES, expected, frames=9)


def test_a_period_of_one_and_no_merging_keeps_what_it_keeps() -> None:
    """With own=1 every kept token enters as it was."""
    whole = batch("qwen2_5_vl", SHAPES)
    for (tokens, _), (found, states) in zip(
        seen("qwen2_5_vl", whole), entered("qwen2_5_vl", whole, "fastvid(keep=0.4, own=1.0)"), strict=True
    ):
        close(states, tokens[found], terms=1)


@pytest.mark.parametrize("family", FAMILIES)
def test_on_genuine_models(family: str) -> None:
    """Exact counts, and a batch that answers as each video does alone; what is merged differs from what is dropped."""
    check_batch_equals_alone(family, "fastvid(keep=0.4)")
    whole = batch(family, SHAPES)
    merged, plain = (entered(family, whole, f"fastvid(keep=0.4, own={own})") for own in (0.2, 1.0))
    for (tokens, _), (found, _), (same, _) in zip(seen(family, whole), merged, plain, strict=True):
        assert found == same
        assert len(found) == budget(len(tokens), 0.4)
    assert max((a - b).abs().max() for (_, a), (_, b) in zip(merged, plain, strict=True)) > 1e-3


def test_images_stay_whole() -> None:
    assert kept(FastVid(0.1), [[("image", video((1, 3, 3), 0))]]) == [list(range(9))]


@pytest.mark.parametrize(
    "spec",
    ["fastvid(context=1.5)", "fastvid(segments=0)", "fastvid(alike=-2.0)", "fastvid(period=0)", "fastvid(own=2.0)"],
)
def test_settings_out_of_range(spec: str) -> None:
    with pytest.raises(ValueError, match="is out of range"):
        parse(spec)
