"""The layers of a decoder, read from its config as transformers' own masks, caches and rotations read it."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["full", "sliding", "chunked", "cross", "linear"]
KINDS: Mapping[str, Kind] = {
    "full_attention": "full",
    "sliding_attention": "sliding",
    "chunked_attention": "chunked",
    "linear_attention": "linear",
    "conv": "linear",  # the last few rows, which a short convolution looks back over
}
"""What transformers' `config.layer_types` calls the kinds of layers."""


@dataclass(frozen=True)
class LayerSpec:
    """One decoder layer.

    Attributes:
        kind: "full" attends to all earlier positions, "sliding" to those of a window, "chunked" to those of its own
            chunk, "cross" to features that have no place in the sequence, and "linear" keeps a state of fixed size in
            place of keys.
        slot: the cache layer that holds its keys, or its state: its own number, or that of an earlier layer whose keys
            it attends to.
        window: positions that it looks back over, its own included, or that are in a chunk; None if all.
        rope: the layer type by which it asks for its rotary angles; None if all layers turn alike.
        tempered: (f, a) where it scales the query of position p, counted in rows by the layer itself, by
            1 + a log(1 + floor((p + 1) / f)) (arXiv:2501.19399); None if it scales none.
        turns: whether it turns queries and keys by its rotary angles; some layers of Llama 4 and of Cohere 2 do not.
    """

    kind: Kind
    slot: int
    window: int | None = None
    rope: str | None = None
    tempered: tuple[float, float] | None = None
    turns: bool = True

    @property
    def attends(self) -> bool:
        """Whether it has attention, over keys that a cache holds."""
        return self.kind != "linear"


def layer_specs(config: Any, depth: int, crossing: Collection[int] = ()) -> tuple[LayerSpec, ...]:
    """What each layer is.

    Args:
        config: the decoder's.
        depth: how many layers it has.
        crossing: the numbers of those that attend to features outside the sequence.

    Raises:
        ValueError: a type of layer that nobody has described.
    """
    window, types = getattr(config, "sliding_window", None), getattr(config, "layer_types", None)
    if types is None:  # without types, a window is that of all layers
        return _specs(("full_attention" if window is None else "sliding_attention",) * depth, window, (), (*crossing,))
    angles, chunk = getattr(config, "rope_parameters", None) or {}, getattr(config, "attention_chunk_size", None)
    turned = tuple(name for name in KINDS if isinstance(angles.get(name), Mapping))
    shared = getattr(config, "num_kv_shared_layers", None) or 0
    still = _still(config, (*types[:depth],))
    return _specs((*types[:depth],), window, turned, (), shared, chunk, *_tempered(config, still), still)


@functools.lru_cache(maxsize=64)  # asked in every pass, of configs that hardly ever change
def _specs(
    types: tuple[str, ...],
    window: int | None,
    turned: tuple[str, ...],
    crossing: tuple[int, ...],
    shared: int = 0,
    chunk: int | None = None,
    tempered: frozenset[int] = frozenset(),
    temperature: tuple[float, float] | None = None,
    still: frozenset[int] = frozenset(),
) -> tuple[LayerSpec, ...]:
    unknown = sorted({*types} - KINDS.keys())
    if unknown:
        raise ValueError(f"layers of {', '.join(unknown)} are not known: {', '.join(KINDS)} are")
    found, own = [], len(types) - shared  # the last ones attend to the keys of the last of their type before
    for index, name in enumerate(types):
        reach = {"sliding": window, "chunked": chunk}.get(KINDS[name])
        kind = "full" if KINDS[name] in ("sliding", "chunked") and reach is None else KINDS[name]
        kind = "cross" if index in crossing else kind
        slot = index if index < own else max(place for place in range(own) if types[place] == name)
        rope, scaled = name if name in turned else None, temperature if index in tempered else None
        found.append(LayerSpec(kind, slot, None if kind == "cross" else reach, rope, scaled, index not in still))
    return tuple(found)


def _tempered(config: Any, still: frozenset[int]) -> tuple[frozenset[int], tuple[float, float] | None]:
    """The layers whose queries are scaled by their positions, those that turn nothing (Llama 4), and the scale."""
    if not getattr(config, "attn_temperature_tuning", False):
        return frozenset(), None
    return still, (config.floor_scale, config.attn_scale)


def _still(config: Any, types: tuple[str, ...]) -> frozenset[int]:
    """The layers that turn neither queries nor keys, whatever rotary angles they are given."""
    turning = getattr(config, "no_rope_layers", None)  # 1 where a layer turns, whatever the name says
    if turning:
        return frozenset(n for n, turns in enumerate(turning) if not turns)
    # Cohere 2 turns in its windows alone, and its config does not say so.
    whole = getattr(config, "model_type", None) == "cohere2"
    return frozenset(n for n, name in enumerate(types) if whole and name == "full_attention")
