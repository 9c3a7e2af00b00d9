"""What a decoder is made of, layer by layer, and what it is handed beside its states."""

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


@dataclass(frozen=True)
class Deepstack:
    """Features of earlier tower blocks that a decoder adds to its states at visual positions (arXiv:2406.04334).

    Entry i of a list is added behind decoder layer i. Where strategies act, the engine adds them in the decoder's
    place: cut to the tokens that are left, and to a second sequence too if that has the pictures.

    Attributes:
        name: the decoder's keyword argument with the list; each entry is (visual positions of the batch, D).
        at: its keyword argument with those positions, bool (B, N).
        features: where the output of a feature call has them: for each entry one (tokens, D) a picture.
    """

    name: str
    at: str
    features: str


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
