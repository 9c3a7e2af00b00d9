"""DeepSeek-VL: one square picture of patches each, a SigLIP tower and a Llama decoder."""

from __future__ import annotations

from vtokens.adapters.anatomy import Anatomy, TowerSpec
from vtokens.adapters.registry import register_adapter
from vtokens.adapters.tiles import Tiles

SIGLIP = TowerSpec(("vision_model.vision_model", "vision_model"), "encoder.layers", "self_attn")


@register_adapter("deepseek_vl")
class DeepseekVL(Tiles):
    """DeepSeek-VL. Every patch is a token, in raster order."""

    anatomy = Anatomy({"image": SIGLIP})
    examples = ("deepseek-community/deepseek-vl-1.3b-chat",)
