"""T*: a search for the frames that show something, which looks at few frames, and more closely where it found any."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from vtokens.recipes.choose import apart, check_settings

_WINDOW = 5
"""Frames to either side that a good one speaks for."""


def tstar(
    look: Callable[[list[int]], Sequence[Sequence[float]]],
    total: int,
    count: int,
    weights: Sequence[float] = (1.0,),
    confirmed: float = 0.6,
    share: float = 0.5,
    grid: int = 16,
    seed: int = 0,
) -> tuple[list[int], np.ndarray]:
    """T* (arXiv:2504.02259) on frames that are scored one by one.

    Frames are looked at `grid` at a time: evenly at first, then by a probability that follows the scores. A frame's
    score is its largest weighted confidence; those of the best quarter speak for their neighbours too, divided by
    1 + distance. Between frames that were seen, scores lie on straight lines (the release draws a smoothing spline);
    a sigmoid of them, over frames not yet seen, is the probability. What a frame shows with more than `confirmed` is
    found; the search ends when all targets are, or the budget is spent. Ours: the best frames are taken, with room
    between them, where the release draws them.

    Args:
        look: from numbers of frames to the confidence, 0 to 1, that each shows the targets: (what is sought, frames).
        total: how many frames there are.
        count: frames to choose.
        weights: of what is sought: 1 for a target, less for a cue, which need not be found.
        confirmed: from 0 to 1; above it a target is found.
        share: of the frames that may be looked at, above 0; at most 1,000 frames.
        grid: frames looked at together, 1 or more.
        seed: of what is drawn.

    Returns:
        The numbers of the frames, rising; float64 (total,), the score of each: what was seen, or what a good frame near
        it lends it, and 0 where neither says anything.

    Raises:
        ValueError: a setting out of range.
    """
    check_settings(count=count, confirmed=confirmed, share=share, grid=grid)
    if count >= total:
        return list(range(total)), np.zeros(total)
    random, scores, seen = np.random.default_rng(seed), np.zeros(total), np.zeros(total, dtype=bool)
    left = {number for number, weight in enumerate(weights) if weight >= 1}
    budget = max(count, min(1000, int(total * share)))
    chance = np.full(total, 1 / total)
    while left and budget > 0 and not seen.all():
        size = min(grid, budget, int((~seen).sum()))
        if seen.any():
            batch = np.sort(random.choice(total, size, replace=False, p=chance))
        else:
            batch = np.unique(np.linspace(0, total - 1, size).round().astype(int))
        confidence = np.asarray(look(batch.tolist()), dtype=np.float64)
        budget -= len(batch)
        seen[batch] = True
        own = (confidence * np.asarray(weights)[:, None]).max(0)
        scores[batch] = own
        for at, score in zip(batch, own, strict=True):
            if score >= np.percentile(own, 75):
                near = np.arange(max(0, at - _WINDOW), min(total, at + _WINDOW + 1))
                scores[near] = np.maximum(scores[near], score / (np.abs(near - at) + 1))
        left -= {number for number in left if confidence[number].max() > confirmed}
        line = np.interp(np.arange(total), np.flatnonzero(seen), scores[seen])
        chance = np.where(seen, 0, 1 / (1 + np.exp(-np.maximum(1 / total, line))))
        chance = chance / max(chance.sum(), np.finfo(float).tiny)
    order = np.argsort(-scores, kind="stable").tolist()
    return sorted(apart(order, range(total), count, total / (2 * count))), scores
