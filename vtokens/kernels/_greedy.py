"""The greedy choice on a CPU: the next choices are foreseen, so that tokens are read once for many of them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_WINDOW = 128
"""Tokens among which the next choices are sought."""
_IN_CACHE = 1 << 19
"""Most numbers that stay near the processor, 2 MiB: to read them for each choice costs less than foresight."""
_FEWEST, _MOST = 16, 64
"""Choices foreseen at a time; a product with fewer takes no less time."""


def greedy(tokens: Tensor, count: int, start: int, kcenter: bool, weight: Tensor | None = None) -> Tensor:
    """The `count` tokens that a loop over choices takes, which compares every token with each choice.

    That loop multiplies one vector with all tokens a choice, which few and narrow tokens allow, and waits for memory
    where they are more. There the choices to come are foreseen
    by running it among the tokens of least cost, and one matrix product compares all tokens with all of them. Then the
    loop runs as it would; where it leaves what was foreseen, the rest is foreseen anew. Only the speed depends on how
    good the foresight is.

    Args:
        tokens: float32 (M, D), all of them candidates.
        count: 1 to M.
        start: the first choice.
        kcenter: cost is the largest cosine with the chosen tokens; else their sum.
        weight: float32 (M,), above 0: how much the distance 1 - cost of each token counts; None compares costs.

    Returns:
        int64 (count,), in the order of choice.
    """
    tokens = tokens.detach()
    # Zero vectors resemble nothing.
    scale = torch.linalg.vector_norm(tokens, dim=1).clamp_(min=1e-12).reciprocal_()
    add = np.maximum if kcenter else np.add
    cost = np.full(len(tokens), -np.inf if kcenter else 0.0, dtype=np.float32)
    weights = None if weight is None else weight.numpy()
    if tokens.numel() <= _IN_CACHE:
        return _each(tokens * scale[:, None], count, start, cost, weights, add)
    chosen, foreseen, depth = np.empty(count, dtype=np.int64), np.array([start]), _FEWEST
    done, pick = 0, start
    while True:
        rows = _cosines(tokens, scale, torch.from_numpy(foreseen), tokens, scale).numpy()
        for row, expected in zip(rows, foreseen, strict=True):
            if pick != expected:
                depth = max(_FEWEST, depth // 2)
                break
            chosen[done] = pick
            done += 1
            if done == count:
                return torch.from_numpy(chosen)
            add(cost, row, out=cost)
            cost[pick] = np.inf
            pick = int(_least(cost, weights).argmin())
        else:
            depth = min(_MOST, 2 * depth)
        foreseen = _foresee(tokens, scale, cost, weights, pick, min(depth, count - done), add)


def _each(units: Tensor, count: int, start: int, cost: np.ndarray, weights: np.ndarray | None, add: np.ufunc) -> Tensor:
    """The loop itself, over tokens of unit length."""
    chosen, pick, rows = np.empty(count, dtype=np.int64), start, units.numpy()
    for done in range(count):
        chosen[done] = pick
        add(cost, rows @ rows[pick], out=cost)
        cost[pick] = np.inf
        pick = int(_least(cost, weights).argmin())
    return torch.from_numpy(chosen)


def _least(cost: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """What is least at the next choice: the cost, or minus the distance times the weight."""
    return cost if weights is None else (cost - 1) * weights


def _foresee(
    tokens: Tensor, scale: Tensor, cost: np.ndarray, weights: np.ndarray | None, pick: int, depth: int, add: np.ufunc
) -> np.ndarray:
    """The choices that follow, `pick` first, if none comes from outside the tokens of least cost."""
    least = _least(cost, weights)
    window = np.argpartition(least, _WINDOW)[:_WINDOW] if len(cost) > _WINDOW else np.arange(len(cost))
    cost, index = cost[window], torch.from_numpy(window)
    weights = None if weights is None else weights[window]
    some, scales = tokens[index], scale[index]
    rows = _cosines(some, scales, slice(None), some, scales).numpy()
    at, found = int(np.flatnonzero(window == pick)[0]), np.empty(depth, dtype=np.int64)
    for number in range(depth):
        found[number] = window[at]
        add(cost, rows[at], out=cost)
        cost[at] = np.inf
        at = int(_least(cost, weights).argmin())
    return found


def _cosines(left: Tensor, scale: Tensor, rows: Tensor | slice, right: Tensor, scales: Tensor) -> Tensor:
    """float32 (R, M): those rows of `left` with all of `right`."""
    # Many rows times few columns is the faster way round.
    return (right @ (left[rows] * scale[rows, None]).T).T.contiguous().mul_(scales)
