"""Greedy maximum coverage: each time the token is added that raises most what is covered, for sets of tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from vtokens.kernels._precision import as_given

_AT_ONCE = 32
"""Tokens whose gains are looked at together on a CPU."""


@as_given
def coverage(
    covers: Callable[[int, int], Tensor], sizes: Sequence[int], counts: Sequence[int], weight: Tensor
) -> Tensor:
    """Grow subsets, each time by the token with the largest weight * sum over rows of max(0, cover - best).

    `best` is the largest cover of a row by the tokens chosen, from 0 on. Ties go to the earlier token. Sets are worked
    on one after another, so that of one alone the matrix is held. What a choice adds never grows, so that on a CPU most
    gains need not be looked at again (lazy greedy, Minoux 1978); on other devices nothing waits for them.

    Args:
        covers: (number of the set, its size m) -> float32 (m, R), how much each token covers each row.
        sizes: tokens of each set, on the host; they stand first.
        counts: how many to choose of each set, on the host.
        weight: floating (G, M), 0 or more.

    Returns:
        bool (G, M), True on exactly `counts[g]` of the first `sizes[g]` tokens of each set.

    Raises:
        ValueError: a count below 0 or above the set's size, or numbers of sets that do not fit.
    """
    if not len(sizes) == len(counts) == len(weight):
        raise ValueError(f"{len(sizes)} sizes, {len(counts)} counts and {len(weight)} rows of weight do not fit")
    if any(not 0 <= count <= size for count, size in zip(counts, sizes, strict=True)):
        raise ValueError(f"counts are {list(counts)}: 0 to the sizes {list(sizes)} are allowed")
    chosen = torch.zeros(weight.shape, dtype=torch.bool, device=weight.device)
    for group, (size, count) in enumerate(zip(sizes, counts, strict=True)):
        if not count:
            continue
        if count == size:
            chosen[group, :size] = True
            continue
        rows, own = covers(group, size).detach().float().clamp(min=0), weight[group, :size].detach().float()
        one = _lazily if rows.device.type == "cpu" else _without_waiting
        chosen[group, :size] = one(rows, own, count)
    return chosen


def _without_waiting(rows: Tensor, weight: Tensor, count: int) -> Tensor:
    chosen, best = torch.zeros_like(weight, dtype=torch.bool), rows.new_zeros(rows.shape[1])
    for _ in range(count):
        gain = (rows - best).clamp_(min=0).sum(1).mul_(weight).masked_fill_(chosen, -torch.inf)
        pick = gain.argmax(0, keepdim=True)
        chosen = chosen.scatter(0, pick, True)
        best = torch.maximum(best, rows.index_select(0, pick)[0])
    return chosen


def _lazily(rows: Tensor, weight: Tensor, count: int) -> Tensor:
    cover, weights, chosen = rows.numpy(), weight.numpy(), np.zeros(len(weight), dtype=bool)
    best, bound = np.zeros(cover.shape[1], dtype=np.float32), cover.sum(1) * weights
    for _ in range(count):
        known = np.zeros(len(weights), dtype=bool)
        while True:
            pick = int(bound.argmax())
            if known[pick]:
                break
            stale = np.where(known, -np.inf, bound)
            most = np.argpartition(-stale, _AT_ONCE)[:_AT_ONCE] if len(stale) > _AT_ONCE else np.arange(len(stale))
            most = most[stale[most] > -np.inf]
            most = np.union1d(most, [pick])
            bound[most] = np.maximum(cover[most] - best, 0).sum(1) * weights[most]
            known[most] = True
        chosen[pick] = True
        bound[pick] = -np.inf
        np.maximum(best, cover[pick], out=best)
    return torch.from_numpy(chosen)
