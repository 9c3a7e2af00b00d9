"""How many tokens two stages keep, so that over the decoder's layers the average is what was asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence

from vtokens.strategies.views.visuals import Visuals


def early(strategy: object, visuals: Visuals, asked: Sequence[int], layer: int, ratio: float) -> tuple[int, ...]:
    """Tokens of each group that go through the layers before `layer`, if `ratio` of them go on from there.

    Where that is more than there are, all stay, and `late` keeps more. What was asked for is noted for it.

    Args:
        strategy: which has two stages.
        asked: the average of each group over the layers, on the host.
        layer: 1 to depth - 1.
        ratio: above 0, up to 1.
    """
    depth, notes = visuals.observed.depth, visuals.observed.notes(strategy)
    scale = depth / (layer + ratio * (depth - layer))
    found = tuple(_between(own * scale, own, count) for own, count in zip(asked, visuals.counts, strict=True))
    notes.update({group: (own, first) for group, (own, first) in enumerate(zip(asked, found, strict=True))})
    return found


def late(strategy: object, visuals: Visuals, layer: int) -> tuple[int, ...]:
    """Tokens of each group that go on from `layer`, where `early` said how many go through the layers before it."""
    depth, notes = visuals.observed.depth, visuals.observed.notes(strategy)
    pairs = [notes[group] for group in range(len(visuals.counts))]
    return tuple(
        _between((own * depth - first * layer) / (depth - layer), min(own, 1), count)
        for (own, first), count in zip(pairs, visuals.counts, strict=True)
    )


def _between(value: float, least: int, most: int) -> int:
    """`value`, rounded to the nearest count, a half up; no less than `least`, and no more than `most`."""
    return min(most, max(least, math.floor(value + 0.5)))
