"""`vidcom2`: unlike frames keep more, each its least usual tokens, counted by plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from tests.strategies.test_evs import KEEPS, SIZES
from tests.strategies.videos import (
    FAMILIES,
    check_batch_equals_alone,
    check_beside_images,
    check_pruned_equals_masked,
    kept,
    video,
)
from vtokens.core.budget import budget
from vtokens.strategies.prune.vidcom2 import VidCom2


def likeness(x: Tensor, centre: Tensor) -> float:
    distance = float(((x - centre) ** 2).sum())
    return sum(math.exp(-distance / (2 * 2.0**k)) for k in (-3, -2, -1, 0, 1))


def shares(scores: list[float], base: float) -> list[float]:
    """What each frame keeps of its tokens, from how little it is like the video."""
    weights = [math.exp((score - max(scores)) / 0.01) for score in scores]
    return [min(1.0, base * (1 + weight / sum(weights) - 1 / len(scores))) for weight in weights]


def expected(x: Tensor, keep: float | int) -> list[int]:
    """The tokens that stay of a video (T, h, w, D), frame by frame, in float64."""
    t, h, w, width = x.shape
    places, flat = h * w, x.double().reshape(-1, width)
    spread = [float(((flat[:, c] - flat[:, c].mean()) ** 2).mean()) for c in range(width)]
    still = sorted(range(width), key=lambda c: spread[c])[: max(1, width // 2)]
    unit = [flat[n, still] / flat[n, still].norm() for n in range(len(flat))]
    whole = sum(unit) / len(unit)
    to_video = [likeness(one, whole) for one in unit]
    total, chosen, alike = [], [], []
    for frame in range(t):
        own = range(frame * places, (frame + 1) * places)
        centre = sum(unit[n] for n in own) / places
        total += [to_video[n] + likeness(unit[n], centre) for n in own]
        alike.append(-sum(to_video[n] for n in own) / places)
    for frame, share in enumerate(shares(alike, keep if isinstance(keep, float) else keep / len(flat))):
        assume(abs(share * places % 1 - 0.5) > 1e-3)  # a half is rounded either way, by the last bit of the share
        own = sorted(range(frame * places, (frame + 1) * places), key=lambda n: total[n])
        chosen += own[: max(1, round(share * places))]
    count = max(t, budget(len(flat), keep))
    rest = [n for n in range(len(flat)) if n not in chosen]
    order = [*sorted(chosen, key=lambda n: total[n]), *sorted(rest, key=lambda n: total[n])]
    return sorted(order[:count])


def test_shares_of_frames_are_the_papers() -> None:
    """The reference itself: one frame that is less like the video gets more, the mean stays."""
    assert shares([0, 0, 0, 0.02], 0.25) == pytest.approx([0.2116, 0.2116, 0.2116, 0.3653], abs=1e-4)
    assert shares([0.3] * 4, 0.25) == [0.25] * 4


@given(st.lists(st.tuples(SIZES, st.booleans()), min_size=1, max_size=3), KEEPS | st.integers(1, 4), st.integers(0, 99))
def test_as_counted_by_hand(shapes: list[tuple[tuple[int, int, int], bool]], keep: float | int, seed: int) -> None:
    """Prompts of videos of any size, some beside an image, which stays whole."""
    keep = keep if isinstance(keep, float) else min(keep, *(t * h * w for (t, h, w), _ in shapes))
    check_beside_images(VidCom2(keep), shapes, lambda one: expected(one, keep), seed)


def test_an_odd_frame_keeps_more() -> None:
    """Three frames that look one way with little noise, and one that looks the other."""
    x = video((1, 1, 1), 3) * torch.tensor([1.0, 1.0, -1.0, 1.0])[:, None, None, None] + 0.1 * video((4, 4, 4), 4)
    (found,) = kept(VidCom2(0.25), [[("video", x)]])
    per_frame = [sum(token // 16 == frame for token in found) for frame in range(4)]
    assert sum(per_frame) == 16
    assert per_frame[2] == max(per_frame) > min(per_frame) >= 1


@pytest.mark.parametrize("family", FAMILIES)
def test_on_genuine_models(family: str) -> None:
    report = check_pruned_equals_masked(family, "vidcom2(keep=0.4)")
    for sample in report.samples:
        (part,) = sample.pictures
        t, h, w = part.picture.grids[0]
        assert len(part.kept[0]) == max(t, budget(t * h * w, 0.4))
    check_batch_equals_alone(family, "vidcom2(keep=0.4)")
