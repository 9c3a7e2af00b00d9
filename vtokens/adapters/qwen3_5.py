"""Qwen3.5: Qwen3-VL's tower, without deepstack; three of four decoder layers are Gated DeltaNet, and have no keys."""

from __future__ import annotations

from dataclasses import replace

from vtokens.adapters.qwen2_vl import Qwen2VL
from vtokens.adapters.registry import register_adapter


@register_adapter("qwen3_5")
class Qwen35(Qwen2VL):
    """Qwen3.5. Tokens can be dropped before any layer; what looks at attention finds it in every fourth."""

    anatomy = replace(Qwen2VL.anatomy, kinds=frozenset(("full", "linear")))
    examples = ("Qwen/Qwen3.5-4B", "Qwen/Qwen3.5-9B", "Qwen/Qwen3.5-27B")

    @property
    def tower_widths(self) -> tuple[int, int, bool]:
        vision = self.config.vision_config
        return vision.hidden_size, vision.intermediate_size, False
