"""What strategies may know of a model: its shape and what tells it from others, never the model itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property


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
        tied: the output layer shares its weights with the embeddings.
        linear: decoder layers that have no attention, but keep a state of fixed size in place of keys.
        source: where the model was loaded from, a folder or a hub id; "" if it was made of a config.
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
    linear: tuple[int, ...] = ()
    tied: bool = False
    source: str = field(default="", compare=False)

    @property
    def attending(self) -> tuple[int, ...]:
        """The decoder layers that have attention."""
        return tuple(layer for layer in range(self.depth) if layer not in self.linear)

    @property
    def behind_attending(self) -> tuple[int, ...]:
        """The decoder layers in front of which the attention of the layer before can be read."""
        return tuple(layer + 1 for layer in self.attending if layer + 1 < self.depth)

    def scaled(self, first: int, last: int, of: int = 32) -> tuple[int, ...]:
        """The decoder layers with attention that lie where layers `first` to `last` lie in a decoder of `of` layers.

        At least one: where a range shrinks to nothing, or holds no attention, the nearest layer that has some.
        """
        begin, end = (round(layer * self.depth / of) for layer in (first, last + 1))
        inside = tuple(layer for layer in self.attending if begin <= layer < end)
        return inside or (self.nearest_attending(min(begin, self.depth - 1)),)

    def nearest_attending(self, layer: int) -> int:
        """The decoder layer with attention that is nearest to `layer`, the earlier one of two."""
        return min(self.attending, key=lambda other: abs(other - layer), default=layer)

    @cached_property
    def tower_sample(self) -> tuple[float, ...]:
        """A few of the tower's weights, for towers of equal shape; none if they cannot be read.

        Read when it is asked for, since weights that are sharded or elsewhere have to be fetched first.
        """
        return self.read_sample()
