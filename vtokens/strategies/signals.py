"""The signals that a strategy may ask to be observed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

QueryRows = Literal["last", "after", "text", "visual"]


@dataclass(frozen=True)
class Saliency:
    """Asks for the vision tower's opinion of each token.

    Attributes:
        blocks: tower blocks (0-based, negative from the end) whose scores are summed; None is the block that
            made the features.
    """

    blocks: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Attention:
    """Asks for the attention that keys receive in one decoder layer, averaged over heads and query rows.

    Attributes:
        layer: decoder layer, 0-based.
        rows: "last" is the last prompt position, "after" the first one behind the last picture, "text" all text from
            the first visual token on, "visual" all visual tokens.
    """

    layer: int
    rows: QueryRows = "last"


Signal = Saliency | Attention


class Observed(Protocol):
    """Where a view finds the signals its strategy asked for."""

    def saliency(self, blocks: tuple[int, ...] | None) -> Tensor: ...

    def attention(self, layer: int, rows: QueryRows) -> Tensor: ...

    def copies(self) -> Tensor | None: ...

    def sizes(self) -> Tensor | None: ...
