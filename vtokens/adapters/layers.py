"""The layers of a decoder, read from its config as transformers' own masks, caches and rotations read it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["full", "sliding", "cross", "linear"]
KINDS: Mapping[str, Kind] = {
    "full_attention": "full",
    "sliding_attention": "sliding",
    "linear_attention": "linear",
}
"""What transformers' `config.layer_types` calls the kinds of layers."""


@dataclass(frozen=True)
class LayerSpec:
    """One decoder layer.

    Attributes:
        kind: "full" attends to all earlier positions, "sliding" to those of a window, "cross" to features that have no
            place in the sequence, and "linear" keeps a state in place of keys.
        slot: the cache layer that holds its keys.
        window: positions that it looks back over, its own included; None if all.
        rope: the layer type by which it asks for its rotary angles; None if all layers turn alike.
    """

    kind: Kind
    slot: int
    window: int | None = None
    rope: str | None = None


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
        kind: Kind = "full" if window is None else "sliding"
        return tuple(
            LayerSpec("cross", index) if index in crossing else LayerSpec(kind, index, window) for index in range(depth)
        )
    unknown = sorted({*types[:depth]} - KINDS.keys())
    if unknown:
        raise ValueError(f"layers of {', '.join(unknown)} are not known: {', '.join(KINDS)} are")
    angles = getattr(config, "rope_parameters", None) or {}
    return tuple(
        LayerSpec(
            "full" if KINDS[name] == "sliding" and window is None else KINDS[name],
            index,
            window if KINDS[name] == "sliding" else None,
            name if isinstance(angles.get(name), Mapping) else None,
        )
        for index, name in enumerate(types[:depth])
    )
