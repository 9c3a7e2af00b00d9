"""What a `states` strategy sees: the states that leave a decoder layer, or its MLP, in one pass."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from vtokens.strategies.views.memory import Memory, Noting

Place = Literal["layer", "mlp"]


@dataclass
class States(Noting):
    """States of W rows of each of B samples.

    Attributes:
        layer: decoder layer.
        place: "layer" is what leaves it, "mlp" what its MLP is about to add to them.
        hidden: (B, W, D).
        valid: bool (B, W), False on padding; None if there is none.
        visual: bool (B, W), rows that hold visual tokens; None in a pass without pictures.
        last: int64 (B, 1), the row at which each prompt ends; None in a pass without pictures.
        prepared: what the strategy's `prepare` made.
        text_lane: (B, D) float32, the same states at the last prompt position in a forward pass without the pictures;
            None unless the strategy asked for it (`Needs(text_lane=True)`) and the pass brings pictures.
        noted: what this pass notes.
    """

    layer: int
    place: Place
    hidden: Tensor
    valid: Tensor | None
    visual: Tensor | None
    last: Tensor | None
    _memory: Memory
    prepared: Any = None
    text_lane: Tensor | None = None
    noted: Memory = field(default_factory=Memory)
    metrics: dict[str, Tensor] = field(default_factory=dict)

    @property
    def is_image_prefill(self) -> bool:
        """True in the prefill that brings images: compute per-image decisions here."""
        return self.visual is not None

    def at_last(self) -> Tensor:
        """(B, D): the states at which each prompt ends; of a pass without pictures, the last ones."""
        if self.last is None:
            return self.hidden[:, -1]
        index = self.last.to(self.hidden.device)[..., None].expand(-1, -1, self.hidden.shape[-1])
        return self.hidden.gather(1, index)[:, 0]
