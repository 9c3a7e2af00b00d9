"""What a strategy may know of a model, and the signals it may ask to be observed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, Protocol

from torch import Tensor

Rows = Literal["last", "text", "visual"]


@dataclass(frozen=True)
class Facts:
    """What a strategy may know about a model when it is attached.

    Attributes:
        family: transformers' `model_type`.
        depth: decoder layers.
        tower_depth: blocks of the vision tower.
        has_cls: the tower has a class token, so that saliency is its attention row.
        decoder: what tells one decoder from another, as "llama-32x4096x11008".
        tower: what tells one vision tower from another, as "clip_vision_model-24x1024-14-336".
        merge_blocks: tower blocks in which tokens can be merged, the first ones; None if only behind the tower.
        read_sample: gives `tower_sample`.
        width: channels of a decoder state; 0 if not known.
    """

    family: str
    depth: int
    tower_depth: int
    has_cls: bool
    decoder: str = ""
    tower: str = ""
    merge_blocks: int | None = None
    read_sample: Callable[[], tuple[float, ...]] = field(default=tuple, compare=False, repr=False)
    width: int = 0

    @cached_property
    def tower_sample(self) -> tuple[float, ...]:
        """A few of the tower's weights, for towers of equal shape; none if they cannot be read.

        Read when it is asked for, since weights that are sharded or elsewhere have to be fetched first.
        """
        return self.read_sample()


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
        rows: "last" is the last prompt position, "text" all text from the first visual token on,
            "visual" all visual tokens.
    """

    layer: int
    rows: Rows = "last"


Signal = Saliency | Attention


class Observed(Protocol):
    """Where a view finds the signals its strategy asked for."""

    def saliency(self, blocks: tuple[int, ...] | None) -> Tensor: ...

    def attention(self, layer: int, rows: Rows) -> Tensor: ...

    def copies(self) -> Tensor | None: ...
