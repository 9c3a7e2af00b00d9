"""`holitom`: windows, means of what stands still, centres among them, and salience for the rest, by plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from tests.kernels.test_density_peaks import peaks
from tests.strategies.videos import (
    FAMILIES,
    by_hand,
    check_batch_equals_alone,
    kept,
    moved,
    video,
)
from vtokens.core.budget import budget
from vtokens.strategies import parse
from vtokens.strategies.merge.holitom import HoliTom

Windows = list[tuple[int, int]]


def windows(alike: list[list[bool]], frames: int) -> tuple[Windows, int]:
    """First and last frame of each window, and the tokens they save; `alike[t]` compares frames t and t + 1."""
    best, start = [0], []
    for end in range(frames):
        value, begin = best[end], end
        for first in range(end - 1, -1, -1):
            still = sum(all(row[p] for row in alike[first:end]) for p in range(len(alike[0])))
            if best[first] + (end - first) * still > value:
                value, begin = best[first] + (end - first) * still, first
        best.append(value)
        start.append(begin)
    found, end = [], frames - 1
    while end >= 0:
        found.append((start[end], end))
        end = start[end] - 1
    return found[::-1], best[-1]


def expected(x: Tensor, salience: Tensor, strategy: HoliTom) -> tuple[list[int], Tensor]:
    """The tokens that stay of a video (T, P, D), and what becomes of them, in float64."""
    x, (t, p, _) = x.double(), x.shape
    alike = [
        [float(torch.cosine_similarity(x[f, n], x[f + 1, n], dim=0)) > strategy.alike for n in range(p)]
        for f in range(t - 1)
    ]
    parts, saved = windows(alike, t)
    count = budget(t * p, strategy.keep)
    ratio = min(1.0, count / (t * p - saved))
    order, means, repeats = [], {}, []
    for first, last in parts:
        still = [n for n in range(p) if last > first and all(alike[f][n] for f in range(first, last))]
        means |= {(first, n): x[first : last + 1, n].mean(0) for n in still}
        score = dict(zip(still, peaks([means[first, n] for n in still], 7), strict=True))
        best = sorted(still, key=lambda n: -score[n])
        order += [(rank - round(len(still) * ratio), first, n) for rank, n in enumerate(best)]
        repeats += [(f, n) for f in range(first + 1, last + 1) for n in still]
        for f in range(first, last + 1):
            moving = sorted((n for n in range(p) if n not in still), key=lambda n: -float(salience[f, n]))
            order += [(rank - math.ceil(len(moving) * ratio - 1e-6), f, n) for rank, n in enumerate(moving)]
    chosen = [(f, n) for _, f, n in sorted(order)][:count]
    chosen = sorted([*chosen, *sorted(repeats)[: count - len(chosen)]])
    states = []
    for f, n in chosen:
        if (f, n) not in means:
            states.append(x[f, n])
            continue
        last = next(end for begin, end in parts if begin == f)
        own = {
            m: [x[g, m] for g in range(f, last + 1) if g == f or (g, m) not in chosen]
            for _, m in means
            if (f, m) in means
        }
        mean = {m: torch.stack(rows).mean(0) for m, rows in own.items()}
        centres = [m for m in own if (f, m) in chosen]
        joins = [
            m for m in own
            if m not in centres and min(centres, key=lambda c: float((means[f, m] - means[f, c]).norm())) == n
        ]  # fmt: skip
        rest = torch.stack([mean[m] for m in joins]).mean(0) if joins else mean[n]
        states.append(strategy.own * mean[n] + (1 - strategy.own) * rest)
    return [f * p + n for f, n in chosen], torch.stack(states)


def test_windows_are_those_that_save_most() -> None:
    """The reference itself, on a case that is worked out in the notes on the paper."""
    rows = [[0.9, 0.9, 0.9, 0.1], [0.9, 0.9, 0.1, 0.1], [0.1] * 4, [0.9] * 4]
    assert windows([[value > 0.8 for value in row] for row in rows], 5) == ([(0, 2), (3, 4)], 8)


STRATEGIES = st.builds(HoliTom, keep=st.floats(0.05, 0.95), alike=st.floats(-0.5, 0.95), own=st.floats(0, 1))
test_as_worked_out_by_hand = by_hand(STRATEGIES, expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_on_genuine_models(family: str) -> None:
    """Exact counts, and a batch that answers as each video does alone; some tokens are means."""
    check_batch_equals_alone(family, "holitom(keep=0.4, alike=0.3)")
    found = moved(family, "holitom(keep=0.4, alike=0.3)")
    assert [left for _, left, _ in found] == [budget(total, 0.4) for total, _, _ in found]
    assert max(changed for *_, changed in found) > 1e-3


def test_images_stay_whole() -> None:
    assert kept(HoliTom(0.1), [[("image", video((1, 3, 3), 0))]]) == [list(range(9))]


def test_settings_out_of_range() -> None:
    for spec in ("holitom(alike=1.5)", "holitom(own=-0.1)"):
        with pytest.raises(ValueError, match="is out of range"):
            parse(spec)
