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
        weights: float32 (G, K, M), 0 on padding of groups; None if tokens stay as they are.
        sizes: float32 (G, K), logarithms of what kept tokens count for; None if they count as before.
    """

    index: Tensor
    at: Tensor
    weights: Tensor | None
    sizes: Tensor | None

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
        weights, sizes, (batch, width) = selection.weights, selection.sizes, shape
        if weights is None and sizes is None:
            return None
        device, size = groups.index.device, groups.index.shape[1]
        kept = selection.counts
        kept = tuple(selection.keep.sum(1).tolist()) if kept is None else kept
        most = max(kept, default=0)
        for name, part, shape in (
            ("weights", weights, (len(kept), most, size)),
            ("sizes", sizes, (len(kept), most)),
        ):
            if part is not None and not part.is_floating_point():
                raise TypeError(f"{name} are {part.dtype}: floating ones are allowed, as {name}.float() makes them")
            if part is not None and part.shape != shape:
                raise ValueError(
                    f"{name} have the shape {tuple(part.shape)}: one for each kept token of a group is needed, in "
                    f"order, {shape}"
                )
        slot = torch.where(selection.keep & groups.valid, torch.arange(size, device=device), size)
        slot = slot.sort(1).values[:, :most]
        index = groups.index
        if rows is not None:
            index = torch.tensor(rows, device=device)[index // width] * width + index % width
        at = torch.where(slot < size, index.gather(1, slot.clamp(max=size - 1)), batch * width)
        if weights is not None:
            weights = weights.to(device, torch.float32).masked_fill(~groups.valid[:, None], 0)
        sizes = None if sizes is None else sizes.to(device, torch.float32).log()
        return Blend(index, at, weights, sizes)

    def tokens(self, values: Tensor) -> Tensor:
        """float32 (G, K, D): the weighted sums of tokens out of (B, W, D)."""
        tokens = values.flatten(0, 1)[self.index].float()
        return tokens if self.weights is None else self.weights @ tokens

    def put(self, values: Tensor, new: Tensor) -> Tensor:
        """(B, W, ...) with `new` (G, K, ...) in the place of the kept tokens."""
        flat = torch.cat([values.flatten(0, 1), torch.zeros_like(values[:1, 0])])
        flat = flat.index_copy(0, self.at.flatten(), new.flatten(0, 1).to(values.dtype))
        return flat[:-1].view_as(values)
