"""Query rows of an attention call, and where each sample's prompt stands among them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """Query rows of a pass.

    Attributes:
        index: int64 (B, R), rows of the pass; arbitrary where not `real`.
        real: bool (B, R), False where a sample has fewer of them; None if all are real.
        whole: they are all rows of the pass, in order.
    """

    index: Tensor
    real: Tensor | None = None
    whole: bool = False

    def gather(self, values: Tensor) -> Tensor:
        """(B, H, W, D) -> (B, H, R, D)."""
        if self.whole:
            return values
        index = self.index[:, None, :, None]
        return values.gather(2, index.expand(-1, values.shape[1], -1, values.shape[3]))


@dataclass(frozen=True)
class Span:
    """Where a sample's own prompt stands among the rows of a pass, known on the host.

    Attributes:
        first, end: its rows are those from `first` up to, not including, `end`.
        stop: an answer that is fed along has those from `end` up to `stop`; padding comes after it.
        tokens: visual tokens among them.
        strides: distances, in positions, at which rows and frames of its pictures repeat.
    """

    first: int
    end: int
    stop: int
    tokens: int
    strides: tuple[int, ...]
