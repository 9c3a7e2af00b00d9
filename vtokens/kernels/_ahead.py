"""Cosines with one token after the other on a CPU: those of the next ones are made along, in one product."""

from __future__ import annotations

import torch
from torch import Tensor

_IN_CACHE = 1 << 18
"""Most numbers that stay near the processor, 1 MiB: to read them for each token costs less than foresight."""
_AHEAD = 32
"""Tokens whose cosines are made together; a product with fewer takes no less time."""


class Ahead:
    """Cosines of sets of tokens of unit length with tokens that are asked for one by one.

    To compare all tokens with one waits for memory, with 32 it does not. Which will be asked for is a guess, and only
    the speed depends on how good it is.
    """

    def __init__(self, unit: Tensor) -> None:
        self._unit = unit
        self._rows = [dict[int, Tensor]() for _ in unit]

    @staticmethod
    def pays(unit: Tensor) -> bool:
        """Whether foresight costs less than it saves for tokens (G, M, D): on a CPU, where more than stay near it."""
        return unit.device.type == "cpu" and unit[:1].numel() > _IN_CACHE

    def like(self, pick: Tensor, worth: Tensor) -> Tensor:
        """float32 (G, M): the cosines with `pick` (G,), while the highest of `worth` (G, M) are the likeliest next."""
        return torch.stack([self._of(group, one, worth[group]) for group, one in enumerate(pick.tolist())])

    def _of(self, group: int, pick: int, worth: Tensor) -> Tensor:
        rows, unit = self._rows[group], self._unit[group]
        if pick not in rows:
            best = worth.topk(min(2 * _AHEAD, len(worth))).indices.tolist()
            new = [pick, *[one for one in best if one not in rows and one != pick][: _AHEAD - 1]]
            # Many rows times few columns is the faster way round.
            rows.update(zip(new, (unit @ unit[new].T).T.contiguous(), strict=True))
        return rows.pop(pick)
