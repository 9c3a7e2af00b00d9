"""Kept tokens that become weighted sums of the tokens of their group, and what they count for in attention.

Example: two of three tokens stay; v2 goes into both by halves.

    group           v0   v1   v2
    Selection.keep  yes  yes  no
    weights         v0' = v0 + v2 / 2
                    v1' = v1 + v2 / 2
    sizes           1.5, 1.5
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vtokens.core.groups import Groups
from vtokens.strategies.selection import Selection


@dataclass(frozen=True, eq=False)
class Blend:
    """What a selection makes of the tokens that it keeps.

    Attributes:
        index: int64 (G, M), flat positions of the groups' tokens in the batch.
        at: int64 (G, K), flat positions of kept tokens, in order; one behind the last where a group has fewer.
        weights: float32 (G, K, M), 0 on padding of groups; (G, M, J) beside `into`; None if tokens stay as they are.
        sizes: float32 (G, K), logarithms of what kept tokens count for; None if they count as before.
        share: how much of them attention adds to scores.
        into: int64 (G, M, J), which of the K kept tokens each goes into; None if into any number.
    """

    index: Tensor
    at: Tensor
    weights: Tensor | None
    sizes: Tensor | None
    into: Tensor | None = None
    share: float = 1.0

    @staticmethod
    def of(selection: Selection, groups: Groups, shape: Sequence[int], rows: Sequence[int] | None) -> Blend | None:
        """What a selection does beside keeping tokens; None if nothing.

        Args:
            selection: by a strategy that saw `groups`.
            groups: of some rows of a batch.
            shape: (B, W) of the batch.
            rows: which; None if all.

        Raises:
            ValueError, TypeError: weights or sizes of another shape or kind.
        """
        weights, sizes, into, (batch, width) = selection.weights, selection.sizes, selection.into, shape
        if weights is None and sizes is None and into is None:
            return None
        device, size = groups.index.device, groups.index.shape[1]
        kept = selection.counts
        kept = tuple(selection.keep.sum(1).tolist()) if kept is None else kept
        most = max(kept, default=0)
        several = into is not None and into.dim() == 3
        if into is not None and (
            weights is None or into.dtype != torch.long or into.shape[:2] != selection.keep.shape or into.dim() > 3
        ):
            raise ValueError(
                f"into is {into.dtype} {tuple(into.shape)}, with{'' if weights is not None else 'out'} weights: a slot "
                f"for each token is needed, torch.int64 {tuple(selection.keep.shape)}, or several in a last dimension, "
                "and how much of it as weights"
            )
        for name, part, shape in (
            ("weights", weights, (len(kept), most, size) if into is None else tuple(into.shape)),
            ("sizes", sizes, (len(kept), most)),
        ):
            if part is not None and not part.is_floating_point():
                raise TypeError(f"{name} are {part.dtype}: floating ones are allowed, as {name}.float() makes them")
            if part is not None and part.shape != shape:
                raise ValueError(
                    f"{name} have the shape {tuple(part.shape)}: one for each kept token of a group is needed, in "
                    f"order, {shape}"
                    if into is None or name == "sizes"
                    else f"{name} have the shape {tuple(part.shape)}: one for each token is needed beside into, {shape}"
                )
        slot = torch.where(selection.keep & groups.valid, torch.arange(size, device=device), size)
        slot = slot.sort(1).values[:, :most]
        index = groups.index
        if rows is not None:
            index = torch.tensor(rows, device=device)[index // width] * width + index % width
        at = torch.where(slot < size, index.gather(1, slot.clamp(max=size - 1)), batch * width)
        if weights is not None:
            weights = weights if into is None or several else weights[..., None]
            real = groups.valid[:, None] if into is None else groups.valid[..., None]
            weights = weights.to(device, torch.float32).masked_fill(~real, 0)
        if weights is not None and into is not None:
            keep, into = selection.keep & groups.valid, into.to(device) if several else into.to(device)[..., None]
            weights = weights.masked_fill(~keep.gather(1, into.flatten(1)).view_as(weights), 0)
            into = (keep.cumsum(1) - 1).clamp(min=0).gather(1, into.flatten(1)).view_as(into)
        sizes = None if sizes is None else sizes.to(device, torch.float32).log()
        return Blend(index, at, weights, sizes, into, selection.share)

    def tokens(self, values: Tensor) -> Tensor:
        """float32 (G, K, D): the weighted sums of tokens out of (B, W, D)."""
        tokens = values.flatten(0, 1)[self.index].float()
        if self.weights is None or self.into is None:
            return tokens if self.weights is None else self.weights @ tokens
        groups, most = self.at.shape
        first = most * torch.arange(groups, device=self.into.device)[:, None]
        found = tokens.new_zeros(groups * most, tokens.shape[2])
        for into, weights in zip(self.into.unbind(2), self.weights.unbind(2), strict=True):
            found.index_add_(0, (into + first).flatten(), (tokens * weights[..., None]).flatten(0, 1))
        return found.view(groups, most, -1)

    def put(self, values: Tensor, new: Tensor) -> Tensor:
        """(B, W, ...) with `new` (G, K, ...) in the place of the kept tokens."""
        flat = torch.cat([values.flatten(0, 1), torch.zeros_like(values[:1, 0])])
        flat = flat.index_copy(0, self.at.flatten(), new.flatten(0, 1).to(values.dtype))
        return flat[:-1].view_as(values)
