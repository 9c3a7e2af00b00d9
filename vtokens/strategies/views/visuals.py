"""What a pruning strategy sees: the visual tokens of a batch as padded groups, and the signals it asked for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vtokens.core.budget import Keep, budget
from vtokens.core.layout import Grouping, Layout
from vtokens.strategies.selection import Selection
from vtokens.strategies.signals import Observed, Rows


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
        """float32 (G, M): how much the vision tower attends to each token."""
        return self._groups.gather(self.observed.saliency(blocks).to(self.hidden.device))

    def attention(self, layer: int, rows: Rows = "last") -> Tensor:
        """float32 (G, M): the attention each token receives in a decoder layer."""
        return self._groups.gather(self.received(layer, rows))

    def received(self, layer: int, rows: Rows = "last") -> Tensor:
        """float32 (B, W): the attention every position receives in a decoder layer, text included."""
        return self.observed.attention(layer, rows).to(self.hidden.device)

    def copies(self) -> Tensor | None:
        """int64 (G, M): equal, above 0, for tokens that the vision tower merged into one; None if it merged none."""
        found = self.observed.copies()
        return None if found is None else self._groups.gather(found.to(self.hidden.device))

    def top(self, scores: Tensor, keep: Keep) -> Selection:
        """Keep the highest scores (G, M) of each group, as many as its budget allows; ties go to the earlier token."""
        counts = self.budgets(keep)
        order = scores.masked_fill(~self.valid, -torch.inf).argsort(dim=1, descending=True, stable=True)
        rank = torch.empty_like(order)
        rank.scatter_(1, order, torch.arange(order.shape[1], device=order.device).expand_as(order))
        limit = torch.tensor(counts, dtype=torch.long).to(order.device)
        return Selection((rank < limit[:, None]) & self.valid, counts)
