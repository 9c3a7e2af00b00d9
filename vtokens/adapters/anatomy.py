"""What a decoder is made of, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class LayerSpec:
    """One decoder layer.

    Attributes:
        kind: "full" attends to all earlier positions, "sliding" to those of a window.
        window: positions that it looks back over, its own included; None if all.
    """

    kind: Literal["full", "sliding"]
    window: int | None = None


def layer_specs(config: Any, depth: int) -> tuple[LayerSpec, ...]:
    """The layers of a decoder, read from its config as transformers' own masks and caches read it.

    Args:
        config: the decoder's.
        depth: how many layers it has.
    """
    window, kinds = getattr(config, "sliding_window", None), getattr(config, "layer_types", None)
    if window is None:
        return (LayerSpec("full"),) * depth
    # Without types, a window is that of all layers.
    slides = [True] * depth if kinds is None else [kind == "sliding_attention" for kind in kinds]
    return tuple(LayerSpec("sliding", window) if sliding else LayerSpec("full") for sliding in slides[:depth])
