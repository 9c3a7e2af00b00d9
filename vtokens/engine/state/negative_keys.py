"""The keys of a negative prompt, kept in the cache beside those of the prompt, so that they follow beams and crops.

Example: the negative prompt is the text alone. From position `fed` on, both are given the same tokens.

    prompt            t0  v0  v1  v2  t1 | a0  a1        fed = 5
    negative prompt           t0      t1 | a0  a1        length = 2
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicCache

from vtokens.engine.state.padding import join_padding


@dataclass(frozen=True)
class Divergence:
    """Where the two sequences were fed different things for the last time.

    Attributes:
        fed: positions of the prompt.
        length: positions of the negative prompt.
        valid: bool (B, length), False on the padding of the negative prompt; None if it has none.
        shift: int64 (B,), by how much its rotary positions lag behind.
        tail: trailing positions that both have, and that may be cropped.
    """

    fed: int
    length: int
    valid: Tensor | None
    shift: Tensor
    tail: int

    def map(self, change: Callable[[Tensor], Tensor]) -> Divergence:
        """The divergence of other samples; `change` acts on the batch dimension."""
        return replace(self, valid=None if self.valid is None else change(self.valid), shift=change(self.shift))

    def cropped(self, positions: int) -> Divergence:
        """Without the last `positions` of both."""
        valid = None if self.valid is None else self.valid[:, :-positions]
        return replace(
            self, fed=self.fed - positions, length=self.length - positions, valid=valid, tail=self.tail - positions
        )

    def mask(self, fed_mask: Tensor | None, total: int) -> Tensor | None:
        """bool (B, ...), the padding of the negative prompt once `total` positions of the prompt were fed.

        Returns None if there is none.

        Args:
            fed_mask: bool (B, total), the sequence's own; None if nothing of it is padding.
            total: positions of the sequence.
        """
        after = None if fed_mask is None else fed_mask[:, self.fed :]
        return join_padding(self.valid, after, self.length, total - self.fed)


@dataclass(frozen=True)
class NegativeKeys:
    """What stands beside one layer of a cache.

    Attributes:
        layer: keys and values of the negative prompt.
        divergence: where the two sequences diverge; stored on the first layer with keys for all layers, None on others.
        states: layer -> the negative prompt's state in a layer that keeps one in place of keys; stored there too.
    """

    layer: Any
    divergence: Divergence | None = None
    states: Mapping[int, Any] = field(default_factory=dict)

    def check_crop(self, remove: int, fed: int) -> None:
        """Raise `ValueError` if the last `remove` of `fed` positions are not the same in both."""
        if self.divergence is not None and remove > fed - self.divergence.fed + self.divergence.tail:
            raise ValueError(
                f"cannot crop {remove} positions: only the last {fed - self.divergence.fed + self.divergence.tail} are "
                "those of the negative prompt too, which sees the pictures otherwise. Start again with an empty cache, "
                "or detach() the strategy first"
            )

    def cropped(self, remove: int, fed: int) -> NegativeKeys:
        """Without the last `remove` of `fed` positions, of which the cache layer is cropped in place."""
        self.layer.crop(-remove)
        if self.divergence is None or remove <= fed - self.divergence.fed:
            return self
        return replace(self, divergence=self.divergence.cropped(remove - (fed - self.divergence.fed)))

    def map(self, change: Callable[[Tensor], Tensor], layer: Callable[[Any], None]) -> NegativeKeys:
        """Those of other samples; `change` acts on the batch dimension, `layer` on the cache layer, in place."""
        for part in (self.layer, *self.states.values()):
            layer(part)
        return self if self.divergence is None else replace(self, divergence=self.divergence.map(change))


def negative_cache(cache: Any) -> DynamicCache | None:
    """A cache of the negative prompt alone, sharing its layers with `cache`; None if there is none."""
    first = _first(cache)
    if first is None or first.divergence is None:
        return None
    found = DynamicCache()
    both = ((first.states.get(index), layer) for index, layer in enumerate(cache.layers))
    found.layers = [layer.negative.layer if state is None else state for state, layer in both]
    return found


def divergence_of(cache: Any) -> Divergence | None:
    """Where the negative prompt of what `cache` holds diverges; None if there is none."""
    first = _first(cache)
    return None if first is None else first.divergence


def _first(cache: Any) -> NegativeKeys | None:
    """What stands beside the first layer that has keys."""
    layers = () if cache is None else cache.layers
    return getattr(next((layer for layer in layers if hasattr(layer, "keys")), None), "negative", None)
