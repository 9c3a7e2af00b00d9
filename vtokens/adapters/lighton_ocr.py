"""LightOnOCR: Pixtral's tower and a merger that joins neighbouring patches, as in Mistral 3, and a Qwen3 decoder."""

from __future__ import annotations

from dataclasses import replace

from vtokens.adapters.anatomy import Anatomy
from vtokens.adapters.pixtral import PIXTRAL, Pixtral
from vtokens.adapters.registry import register_adapter

ENCODER = replace(PIXTRAL, at=("vision_encoder",), layer=None)


@register_adapter("lighton_ocr")
class LightOnOcr(Pixtral):
    """LightOnOCR transcribes pages, so that text in patches that are dropped is missing from its answers.

    A token's score is the mean of those of the patches that its merger joins.
    """

    anatomy = Anatomy({"image": ENCODER})
    examples = ("lightonai/LightOnOCR-1B-1025",)

    @property
    def factor(self) -> int:
        return int(self.config.spatial_merge_size)
