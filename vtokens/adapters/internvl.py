"""InternVL3 and 3.5: square tiles with a class token each, a pixel shuffle that joins neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vtokens.adapters.anatomy import Anatomy, TowerSpec
from vtokens.adapters.registry import register_adapter
from vtokens.adapters.tiles import Tiles

INTERN = TowerSpec(
    ("vision_tower",),
    "encoder.layer",
    "attention",
    saliency="[CLS]",
    class_token="embeddings.cls_token",
    layer="vision_feature_layer",
)


@register_adapter("internvl")
class InternVL(Tiles):
    """InternVL. The tiles of an image and its thumbnail, the last one, are views of one picture; frames are pictures.

    The class token of each tile scores its patches. On InternVL2 such scores were reported to rank below chance
    (Theia-4869/FasterVLM, issue 4): strategies that look at the decoder or at features do without them.
    """

    anatomy = Anatomy({"image": INTERN})
    examples = ("OpenGVLab/InternVL3-8B-hf", "OpenGVLab/InternVL3_5-8B-HF")

    @property
    def factor(self) -> int:
        return round(1 / self.config.downsample_ratio)

    def stretches(self, placeholders: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        return placeholders
