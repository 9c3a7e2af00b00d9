"""Qwen3-VL: Qwen2-VL with features of earlier tower blocks added behind the first decoder layers (deepstack)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vtokens.adapters.anatomy import Deepstack
from vtokens.adapters.qwen2_vl import Qwen2VL
from vtokens.adapters.registry import register_adapter
from vtokens.core.costs import Encoding


@register_adapter("qwen3_vl")
class Qwen3VL(Qwen2VL):
    """Qwen3-VL. A video's frames stand apart, with their times as text between; they are one picture all the same."""

    examples = ("Qwen/Qwen3-VL-4B-Instruct", "Qwen/Qwen3-VL-8B-Instruct")
    anatomy = replace(
        Qwen2VL.anatomy, deepstack=Deepstack("deepstack_visual_embeds", "visual_pos_masks", "deepstack_features")
    )

    @property
    def tower_widths(self) -> tuple[int, int, bool]:
        vision = self.config.vision_config
        return vision.hidden_size, vision.intermediate_size, False

    def encoding(self, modality: str, inputs: Mapping[str, Any]) -> Encoding:
        encoding = super().encoding(modality, inputs)
        mergers = 1 + len(self.config.vision_config.deepstack_visual_indexes)
        return replace(encoding, projector=encoding.projector * mergers)
