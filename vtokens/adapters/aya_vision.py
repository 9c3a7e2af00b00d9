"""Aya Vision: square SigLIP tiles with text between, a pixel shuffle that joins neighbours, a Cohere 2 decoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vtokens.adapters.anatomy import Anatomy, TowerSpec
from vtokens.adapters.registry import register_adapter
from vtokens.adapters.tiles import Tiles
from vtokens.adapters.tiles_in_text import written_together

SIGLIP = TowerSpec(
    ("vision_tower.vision_model", "vision_tower"), "encoder.layers", "self_attn", layer="vision_feature_layer"
)


@register_adapter("aya_vision")
class AyaVision(Tiles):
    """Aya Vision. The tiles of an image and the whole, the last one, are views of one picture; text between stays."""

    anatomy = Anatomy({"image": SIGLIP})
    examples = ("CohereLabs/aya-vision-8b", "CohereLabs/aya-vision-32b")

    @property
    def factor(self) -> int:
        return int(self.config.downsample_factor)

    def stretches(self, placeholders: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        return written_together(placeholders, inputs, ends=0)

    def projected(self, joined: int, width: int) -> tuple[tuple[int, int], ...]:
        inner = getattr(self.config, "alignment_intermediate_size", width)
        return (joined, inner), (inner // 2, width)
