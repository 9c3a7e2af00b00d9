"""What a pruning strategy sees: the visual tokens of a batch as padded groups, and the signals it asked for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vtokens.core.budget import Keep, budget
from vtokens.core.layout import Grouping, Layout
from vtokens.strategies.selection import Selection
from vtokens.strategies.signals import Attention, Observed, Rows, Saliency


@dataclass
class Visuals:
    """The visual tokens of one batch as padded groups: G groups (pictures or samples) of up to M tokens.

    Attributes:
        hidden: (B, W, D) hidden states of the whole sequence at this stage.
        layout: where the visual tokens sit in it.
        grouping: "image" or "sample".
        observed: the signals the strategy asked for.
    """

    hidden: Tensor
    layout: Layout
    grouping: Grouping
    observed: Observed

    def __post_init__(self) -> None:
        self._groups = self.layout.groups(self.grouping)

    @property
    def counts(self) -> tuple[int, ...]:
        """Tokens of each group, on the host."""
        return self._groups.counts

    @property
    def valid(self) -> Tensor:
        """bool (G, M), False on the padding of shorter groups."""
        return self._groups.valid

    @property
    def tokens(self) -> Tensor:
        """(G, M, D) hidden states of the visual tokens."""
        return self._groups.gather(self.hidden)

    @property
    def cells(self) -> Tensor:
        """int64 (G, M), the position of each token inside its picture."""
        return self._groups.gather(self.layout.cell)

    def budgets(self, keep: Keep) -> tuple[int, ...]:
        """Tokens to keep of each group; a sample's budget is the sum of its pictures' budgets."""
        per_picture = [budget(count, keep) for count in self.layout.counts]
        return tuple(per_picture if self.grouping == "image" else self.layout.per_sample(per_picture))

    def saliency(self, blocks: tuple[int, ...] | None = None) -> Tensor:
        """float32 (G, M): how much the vision tower attends to each token.

        Raises:
            ValueError: the tower ran without being watched for this.
        """
        try:
            scores = self.observed.saliency(blocks)
        except ValueError as error:
            error.add_note(f"A strategy that reads it asks for it: Needs(signals=({Saliency(blocks)},)).")
            raise
        return self._groups.gather(scores.to(self.hidden.device))

    def attention(self, layer: int, rows: Rows = "last") -> Tensor:
        """float32 (G, M): the attention each token receives in a decoder layer."""
        return self._groups.gather(self.received(layer, rows))

    def received(self, layer: int, rows: Rows = "last") -> Tensor:
        """float32 (B, W): the attention every position receives in a decoder layer, text included.

        Raises:
            ValueError: that layer has not run yet, or ran without being watched for this.
        """
        try:
            return self.observed.attention(layer, rows).to(self.hidden.device)
        except KeyError:
            raise ValueError(
                f"attention received in layer {layer} from the rows {rows!r} is not known here: let needs(facts) "
                f"return Needs(signals=({Attention(layer, rows)},)), and read it before a later layer"
            ) from None

    def copies(self) -> Tensor | None:
        """int64 (G, M): equal, above 0, for tokens that the vision tower merged into one; None if it merged none."""
        found = self.observed.copies()
        return None if found is None else self._groups.gather(found.to(self.hidden.device))

    @property
    def sizes(self) -> Tensor:
        """float32 (G, M): how many tokens each counts for in attention; 1 where no strategy said otherwise."""
        logs = self.observed.sizes()
        return torch.ones_like(self.valid, dtype=torch.float32) if logs is None else self._groups.gather(logs).exp()

    def top(self, scores: Tensor, keep: Keep) -> Selection:
        """Keep the highest scores of each group, as many as its budget allows; ties go to the earlier token.

        Args:
            scores: floating (G, M), on any device; what stands on padding is not looked at. inf stays first; -inf, and
                nan as well, goes first, since a token without a score must not push out one that has one.
            keep: share or count per picture.

        Raises:
            TypeError: scores that are not floating; says how to make them so.
            ValueError: scores of another shape.
        """
        if not scores.is_floating_point():
            raise TypeError(f"scores are {scores.dtype}: floating ones are allowed, as scores.float() makes them")
        if scores.shape != self.valid.shape:
            raise ValueError(
                f"scores have the shape {tuple(scores.shape)}: one for each token is needed, {tuple(self.valid.shape)}"
            )
        counts, scores = self.budgets(keep), scores.to(self.hidden.device)
        scores = scores.masked_fill(scores.isnan() | ~self.valid, -torch.inf)
        order = scores.argsort(dim=1, descending=True, stable=True)
        rank = torch.empty_like(order)
        rank.scatter_(1, order, torch.arange(order.shape[1], device=order.device).expand_as(order))
        limit = torch.tensor(counts, dtype=torch.long).to(order.device)
        return Selection((rank < limit[:, None]) & self.valid, counts)
