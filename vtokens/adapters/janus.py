"""Janus: one square picture of patches each, a tower like SigLIP and a Llama decoder; it reads pictures here."""

from __future__ import annotations

from vtokens.adapters.anatomy import Anatomy, TowerSpec
from vtokens.adapters.registry import register_adapter
from vtokens.adapters.tiles import Tiles

ALIGNED = TowerSpec(("vision_model",), "encoder.layers", "self_attn")


@register_adapter("janus")
class Janus(Tiles):
    """Janus. Every patch is a token, in raster order; what it draws has no picture to prune."""

    anatomy = Anatomy({"image": ALIGNED})
    examples = ("deepseek-community/Janus-Pro-1B", "deepseek-community/Janus-Pro-7B")

    @property
    def tower_mlp(self) -> tuple[int, bool]:
        vision = self.config.vision_config
        return int(vision.hidden_size * vision.mlp_ratio), False

    def projected(self, joined: int, width: int) -> tuple[tuple[int, int], ...]:
        inner = self.config.vision_config.projection_dim
        return ((joined, inner), *((inner, inner),) * (self.config.vision_config.depth - 1))
