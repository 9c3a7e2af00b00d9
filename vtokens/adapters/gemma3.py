"""Gemma 3: a SigLIP tower whose features are pooled, images that see themselves both ways, sliding layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vtokens.adapters.anatomy import Anatomy, TowerSpec, Visibility
from vtokens.adapters.base import Adapter
from vtokens.adapters.registry import register_adapter
from vtokens.core.costs import Encoding
from vtokens.core.picture import Picture

POOLED = TowerSpec(("vision_tower.vision_model", "vision_tower"), "encoder.layers", "self_attn")


@register_adapter("gemma3")
class Gemma3(Adapter):
    """Gemma 3. The crops of pan and scan are further pictures; scores are pooled as features are."""

    anatomy = Anatomy({"image": POOLED}, visibility=Visibility("token_type_ids", (1,)))
    examples = ("google/gemma-3-4b-it", "google/gemma-3-12b-it", "google/gemma-3-27b-it")

    def pictures(self, modality: str, inputs: Mapping[str, Any]) -> list[Picture]:
        side = self.multimodal.multi_modal_projector.tokens_per_side
        return [Picture.of([(1, side, side)], [False])] * len(inputs["pixel_values"])

    def to_tokens(self, modality: str, scores: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        projector = self.multimodal.multi_modal_projector
        planes = scores.view(-1, 1, projector.patches_per_image, projector.patches_per_image)
        return torch.nn.functional.avg_pool2d(planes, projector.kernel_size).flatten()

    def encoding(self, modality: str, inputs: Mapping[str, Any]) -> Encoding:
        vision, count = self.config.vision_config, len(inputs["pixel_values"])
        patches = (vision.image_size // vision.patch_size) ** 2
        return Encoding(
            vision.hidden_size,
            vision.intermediate_size,
            gated=False,
            blocks=((patches,) * count,) * vision.num_hidden_layers,
            embedding=(count * patches, vision.num_channels * vision.patch_size**2, vision.hidden_size),
            projector=(
                (count * self.config.mm_tokens_per_image, vision.hidden_size, self.config.text_config.hidden_size),
            ),
        )
