"""The greedy choice on a CPU: the next choices are foreseen, so that tokens are read once for many of them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vtokens.kernels._precision import EQUAL

_IN_CACHE = 1 << 19
"""Most numbers that stay near the processor, 2 MiB: to read them for each choice costs less than foresight."""
_FEWEST, _NEAR = 64, 1 << 18
"""The next choices are sought among so many tokens at least, and at most among a quarter of all, or 1 MiB."""
LAST = 1e30
"""The cost of what has no direction, as its length is NaN or infinite: above that of others, below that of chosen."""
_STEP, _MOST = 16, 48
"""Choices foreseen at a time; a product with fewer than a step takes no less time."""


def greedy(tokens: Tensor, count: int, start: int, kcenter: bool, weight: Tensor | None = None) -> Tensor:
    """The `count` tokens that a loop over choices takes, which compares every token with each choice.

    That loop multiplies one vector with all tokens a choice, which few and narrow tokens allow, and waits for memory
    where they are more. There the choices to come are foreseen by running it among the tokens of least cost, and one
    matrix product compares all tokens with all of them. Then the loop runs as it would; where it leaves what was
    foreseen, the rest is foreseen anew. Only the speed depends on how good the foresight is.

    Args:
        tokens: float32 (M, D), all of them candidates.
        count: 1 to M.
        start: the first choice.
        kcenter: cost is the largest cosine with the chosen tokens; else their sum.
        weight: float32 (M,), above 0 and finite: how much the distance 1 - cost of each token counts; None compares
            costs.

    Returns:
        int64 (count,), in the order of choice.
    """
    tokens, (size, width) = tokens.detach(), tokens.shape
    length = torch.linalg.vector_norm(tokens, dim=1)
    add = np.maximum if kcenter else np.add
    cost = np.full(size, -np.inf if kcenter else 0.0, dtype=np.float32)
    lost = ~(length < torch.inf)
    if lost.any():
        tokens, cost[lost.numpy()] = tokens.masked_fill(lost[:, None], 0), LAST
        length, weight = length.masked_fill(lost, 0), None if weight is None else weight.masked_fill(lost, 1)
    # Zero vectors resemble nothing.
    scale = length.clamp_(min=1e-12).reciprocal_()
    weights = None if weight is None else weight.numpy()
    if tokens.numel() <= _IN_CACHE:
        return torch.from_numpy(_each(tokens * scale[:, None], count, start, cost, weights, add))
    # Written again and again: new memory would have to be cleared each time.
    most = min(size, max(_FEWEST, min(size // 4, _NEAR // width)))
    among, near = most, torch.empty(most, width)
    rooms = torch.empty(size * _MOST), torch.empty(size * _MOST)
    chosen, foreseen, depth = np.empty(count, dtype=np.int64), np.array([start]), _STEP
    done, pick = 0, start
    while True:
        before = done
        for row, expected in zip(_cosines(tokens, scale, foreseen, rooms), foreseen, strict=True):
            if pick != expected:
                break
            chosen[done] = pick
            done += 1
            if done == count:
                return torch.from_numpy(chosen)
            add(cost, row, out=cost)
            cost[pick] = np.inf
            pick = int(_least(cost, weights).argmin())
        # As many as went well, in whole steps, and more where all did, or among fewer tokens.
        went = done - before
        if went == len(foreseen):
            among = min(most, max(_FEWEST, among // 2)) if depth == _MOST else among
            depth = min(_MOST, depth + _STEP)
        else:
            among, depth = min(most, among * 2), -(-went // _STEP) * _STEP
        window = _window(_least(cost, weights), among)
        index, own = torch.from_numpy(window), None if weights is None else weights[window]
        units = torch.index_select(tokens, 0, index, out=near[:among]).mul_(scale[index, None])
        at = int(np.searchsorted(window, pick))
        foreseen = window[_each(units, min(depth, count - done), at, cost[window], own, add)]


def _each(
    units: Tensor, count: int, pick: int, cost: np.ndarray, weights: np.ndarray | None, add: np.ufunc
) -> np.ndarray:
    """The loop itself, over tokens of unit length; `cost` is changed on the way."""
    chosen, rows, row = np.empty(count, dtype=np.int64), units.numpy(), np.empty_like(cost)
    for done in range(count):
        chosen[done] = pick
        np.dot(rows, rows[pick], out=row)
        np.putmask(row, row > EQUAL, 1)
        add(cost, row, out=cost)
        cost[pick] = np.inf
        pick = int(_least(cost, weights).argmin())
    return chosen


def _cosines(tokens: Tensor, scale: Tensor, some: np.ndarray, rooms: tuple[Tensor, Tensor]) -> np.ndarray:
    """float32 (R, M): those tokens with all of them, until the rooms are written again."""
    index, shape = torch.from_numpy(some), (len(tokens), len(some))
    product, rows = (room[: shape[0] * shape[1]] for room in rooms)
    # Many rows times few columns is the faster way round.
    product = torch.mm(tokens, (tokens[index] * scale[index, None]).T, out=product.view(shape))
    cosines = torch.mul(product.T, scale, out=rows.view(shape[::-1]))
    return torch.threshold_(cosines.neg_(), -EQUAL, -1.0).neg_().numpy()


def _least(cost: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """What is least at the next choice: the cost, or minus the distance times the weight."""
    return cost if weights is None else (cost - 1) * weights


def _window(least: np.ndarray, size: int) -> np.ndarray:
    """Tokens of least cost in their order, of equals the earlier, so that the first of them is there."""
    bound = np.partition(least, size - 1)[size - 1]
    below, equal = np.flatnonzero(least < bound), np.flatnonzero(least == bound)
    return np.sort(np.concatenate([below, equal[: size - len(below)]]))
