"""What a pruning strategy sees: the visual tokens of a batch as padded groups, and the signals it asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from vtokens.core.budget import Keep, budget, shares
from vtokens.core.layout import Grouping, Layout
from vtokens.core.on_device import on_device
from vtokens.core.ranks import falling_rank
from vtokens.strategies.selection import Selection
from vtokens.strategies.signals import Observed
from vtokens.strategies.views.frames import Frames
from vtokens.strategies.views.observing import Observing


@dataclass
class Visuals(Observing):
    """The visual tokens of one batch as padded groups: G groups (pictures or samples) of up to M tokens.

    Attributes:
        hidden: (B, W, D) hidden states of the whole sequence at this stage.
        layout: where the visual tokens sit in it.
        grouping: "image", "view" (a tile of an AnyRes picture), "frame" or "sample".
        observed: the signals the strategy asked for.
        prepared: what the strategy prepared for this model.
    """

    hidden: Tensor
    layout: Layout
    grouping: Grouping
    observed: Observed
    prepared: Any = None

    def __post_init__(self) -> None:
        self._groups = self.layout.groups(self.grouping)

    @property
    def counts(self) -> tuple[int, ...]:
        """Tokens of each group, on the host."""
        return self._groups.counts

    @property
    def tokens(self) -> Tensor:
        """(G, M, D) hidden states of the visual tokens."""
        return self._groups.gather(self.hidden)

    @property
    def cells(self) -> Tensor:
        """int64 (G, M), the position of each token inside its picture."""
        return self._groups.gather(self.layout.cell)

    @property
    def owners(self) -> Sequence[int]:
        """The picture of each group, on the host; groups are pictures, or parts of one."""
        return range(len(self.counts)) if self.grouping == "image" else self.layout.parts(self.grouping).owners

    def at_cells(self, tables: Sequence[np.ndarray]) -> Tensor:
        """(G, M, ...): for each token what a table of its picture says of its cell; arbitrary on padding.

        Args:
            tables: of each picture (positions, ...); groups are pictures, or parts of one.
        """
        most = max(map(len, tables))
        padded = np.stack([np.pad(one, ((0, most - len(one)), *[(0, 0)] * (one.ndim - 1))) for one in tables])
        cells = self.cells.clamp(0, most - 1)
        found = on_device(padded[list(self.owners)], cells.device)
        return found.gather(1, cells.view(*cells.shape, *[1] * (found.dim() - 2)).expand(-1, -1, *found.shape[2:]))

    def spread(self, values: Tensor) -> Tensor:
        """(B, W): values (G, M) of the visual tokens at their positions, 0 elsewhere."""
        return self._groups.spread(values, self.layout.visual)

    def drawn(self, seed: int) -> Tensor:
        """float32 (G, M): a random number for each token, the same for a seed and a number of tokens; -1 on padding.

        Drawn on the CPU for each group, so that neither device nor batch changes them.
        """
        scores = torch.full(self.valid.shape, -1.0)
        for row, count in enumerate(self.counts):
            scores[row, :count] = torch.rand(count, generator=torch.Generator().manual_seed(seed))
        return scores

    @cached_property
    def frames(self) -> Frames | None:
        """The videos among the pictures, frame by frame; None if there is none. Groups are pictures then."""
        return Frames.of(self.layout.pictures, self.cells, self.valid)

    def budgets(self, keep: Keep, of: Literal["left", "original"] = "left") -> tuple[int, ...]:
        """Tokens to keep of each group.

        A sample's budget is the sum of its pictures' budgets; views and frames share that of their picture in
        proportion to their tokens, by largest remainders.

        Args:
            keep: share or count per picture.
            of: a share is one of what is "left", or of what there was ("original"), so that stages of one strategy can
                name shares of the whole; no more than is left.
        """
        layout = self.layout
        whole = layout.counts if of == "left" else [picture.tokens for picture in layout.pictures]
        pairs = zip(whole, layout.counts, strict=True)
        # What is gone cannot be kept, so a count is one of what was there.
        per_picture = [
            min(left, budget(count, keep)) if of == "original" else budget(left, keep) for count, left in pairs
        ]
        if self.grouping == "image":
            return tuple(per_picture)
        if self.grouping == "sample":
            return tuple(layout.per_sample(per_picture))
        owners = layout.parts(self.grouping).owners
        found = [0] * len(owners)
        for picture, total in enumerate(per_picture):
            own = [number for number, owner in enumerate(owners) if owner == picture]
            for number, part in zip(own, shares(total, [self.counts[number] for number in own]), strict=True):
                found[number] = part
        return tuple(found)

    def top(
        self,
        scores: Tensor,
        keep: Keep,
        of: Literal["left", "original"] = "left",
        budget: Literal["per_image", "per_frame", "global"] = "per_image",
    ) -> Selection:
        """Keep the highest scores of each group, as many as its budget allows; ties go to the earlier token.

        Args:
            scores: floating (G, M), on any device; what stands on padding is not looked at. inf stays first; -inf, and
                nan as well, goes first, since a token without a score must not push out one that has one.
            keep: share or count per picture.
            of: as in `budgets`.
            budget: "global" ranks all tokens of a prompt together, whichever group they are in; how many stay of each
                is then known to the device alone. The others are the groups' own.

        Raises:
            TypeError: scores that are not floating; says how to make them so.
            ValueError: scores of another shape.
        """
        counts, scores = self.budgets(keep, of), self._scores(scores)
        if budget != "global" or self.grouping == "sample":
            return Selection(_highest(scores, self.valid, counts), counts)
        flat = scores.new_full((self.layout.visual.numel() + 1,), -torch.inf)
        at = torch.where(self.valid, self._groups.index, len(flat) - 1)
        spread = flat.scatter(0, at.flatten(), scores.flatten())[:-1].view_as(self.layout.visual)
        whole = self.layout.by_sample
        totals = Visuals(self.hidden, self.layout, "sample", self.observed).budgets(keep, of)
        stay = whole.scatter(_highest(whole.gather(spread), whole.valid, totals), self.layout.visual)
        return Selection(self._groups.gather(stay) & self.valid)

    def best(self, scores: Tensor, counts: Sequence[int]) -> Selection:
        """As `top`, with the number of tokens that stay of each group in place of a `keep`."""
        return Selection(_highest(self._scores(scores), self.valid, counts), tuple(counts))

    def _scores(self, scores: Tensor) -> Tensor:
        """Scores on the device of the states; -inf where there is none."""
        if not scores.is_floating_point():
            raise TypeError(f"scores are {scores.dtype}: floating ones are allowed, as scores.float() makes them")
        if scores.shape != self.valid.shape:
            raise ValueError(
                f"scores have the shape {tuple(scores.shape)}: one for each token is needed, {tuple(self.valid.shape)}"
            )
        scores = on_device(scores, self.hidden.device)
        return scores.masked_fill(scores.isnan() | ~self.valid, -torch.inf)


def _highest(scores: Tensor, valid: Tensor, counts: Sequence[int]) -> Tensor:
    """bool (G, M): the highest scores of each group, as many as `counts` says."""
    limit = on_device(counts, scores.device, dtype=torch.long)
    return (falling_rank(scores, valid) < limit[:, None]) & valid
