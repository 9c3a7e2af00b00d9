"""Command A Vision: square SigLIP tiles, a pixel shuffle that joins neighbours, a Cohere 2 decoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vtokens.adapters.anatomy import Anatomy, TowerSpec
from vtokens.adapters.registry import register_adapter
from vtokens.adapters.tiles import Tiles

SIGLIP = TowerSpec(("vision_tower.vision_model", "vision_tower"), "encoder.layers", "self_attn")


@register_adapter("cohere2_vision")
class Cohere2Vision(Tiles):
    """Command A Vision. The tiles of an image are views of one picture; breaks between are never dropped."""

    anatomy = Anatomy({"image": SIGLIP})
    examples = ("CohereLabs/command-a-vision-07-2025",)

    @property
    def factor(self) -> int:
        return int(self.config.downsample_factor)

    def stretches(self, placeholders: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        # One token ends a tile; where an image ends, its own end and the next one's beginning follow.
        before, behind = (torch.nn.functional.pad(placeholders, pad) for pad in ((1, 0), (0, 1)))
        return placeholders | (before[:, :-1] & behind[:, 1:])

    def projected(self, joined: int, width: int) -> tuple[tuple[int, int], ...]:
        inner = self.config.alignment_intermediate_size
        return (joined, inner), (inner // 2, width)
