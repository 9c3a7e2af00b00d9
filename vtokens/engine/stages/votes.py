"""What the patches of a vision tower vote for: the attention that each receives in one block."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from vtokens.engine.state.merging import Merging
from vtokens.kernels import attention_colmean
from vtokens.strategies.signals import Heads


@dataclass(frozen=True)
class Read:
    """What scores are computed of in one attention call.

    Attributes:
        query, key: (B, H, N, d), or (B, 1, N, H * d) of all heads together.
        scaling: the factor on their products.
        mask: as the implementation wants it.
        bounds: where the images of a packed tower begin, if the call says so.
    """

    query: Tensor
    key: Tensor
    scaling: float
    mask: Any = None
    bounds: Tensor | None = None

    def of(self, heads: Heads) -> Read:
        """The same for scores of each head by itself, or of one head as wide as all together ("joint")."""
        if heads != "joint":
            return self
        query, key = (part.transpose(1, 2).flatten(2)[:, None] for part in (self.query, self.key))
        return replace(self, query=query, key=key, scaling=query.shape[-1] ** -0.5)

    def split(self, sizes: list[int]) -> list[Read]:
        """Stretches of so many patches each."""
        parts = zip(self.query.split(sizes, 2), self.key.split(sizes, 2), strict=True)
        return [replace(self, query=query, key=key) for query, key in parts]


def votes(read: Read, every: bool, merging: Merging | None = None, real: Tensor | None = None) -> Tensor:
    """float32 (B, N): what each token gets; padding, not `real` (B, N), gets nothing and has no vote.

    The class token asks for the patches' scores, or `every` token has a vote. Votes are counted, not averaged: 1 is an
    even share in a window as in a whole picture, so windows and blocks of any size compare.
    """
    query, key, scaling = read.query, read.key, read.scaling
    bias, size = (None, None) if merging is None else (merging.bias, merging.size)
    if not every:
        return attention_colmean(query[:, :, :1], key, scaling, bias=bias, valid=real)
    if real is not None:
        return attention_colmean(query, key, scaling, rows=real, valid=real) * real.sum(1, keepdim=True)
    voters = query.shape[2] if merging is None else merging.member.shape[1]
    return attention_colmean(query, key, scaling, rows=size, bias=bias) * voters
