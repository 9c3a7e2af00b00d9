"""LLaVA-OneVision: AnyRes as in LLaVA-NeXT, large pictures scaled down, videos pooled 2x2 per frame."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers.models.llava_onevision.modeling_llava_onevision import (
    image_size_to_num_patches,
)

from vtokens.adapters.base import register_adapter
from vtokens.adapters.llava import LlavaTower
from vtokens.adapters.llava_next import anyres_picture
from vtokens.picture import Picture


@register_adapter("llava_onevision")
class LlavaOnevision(LlavaTower):
    """LLaVA-OneVision. The model's own packing and pooling arrange scores as they arrange features."""

    saliency = "mean attention"
    examples = (
        "llava-hf/llava-onevision-qwen2-7b-ov-hf",
        "llava-hf/llava-onevision-qwen2-0.5b-ov-hf",
    )

    def _crops(self, inputs: Mapping[str, Any]) -> tuple[list[int], Tensor]:
        sizes = torch.as_tensor(inputs["image_sizes"]).cpu()
        pinpoints, side = (
            self.config.image_grid_pinpoints,
            self.config.vision_config.image_size,
        )
        groups = inputs.get("batch_num_images")
        # Only a sample with a single image is cut into crops.
        whole = (
            [False] * len(sizes)
            if groups is None
            else [n > 1 for n in torch.as_tensor(groups).tolist() for _ in range(n)]
        )
        return [
            1 if single else image_size_to_num_patches(size.tolist(), pinpoints, side)
            for size, single in zip(sizes, whole, strict=True)
        ], sizes  # fmt: skip

    def _pack(
        self,
        planes: list[Tensor],
        sizes: Tensor,
        newline: Tensor,
        inputs: Mapping[str, Any],
    ) -> list[Tensor]:
        ratio = inputs.get("vision_aspect_ratio") or self.config.vision_aspect_ratio
        return self.multimodal.pack_image_features(planes, sizes, image_newline=newline, vision_aspect_ratio=ratio)[0]

    def pictures(self, modality: str, inputs: Mapping[str, Any]) -> list[Picture]:
        if modality == "video":
            videos, pooled = inputs["pixel_values_videos"], math.ceil(self.side / 2)
            video = Picture.of([(videos.shape[1], pooled, pooled)], [False], "video").padded(after=1)
            return [video] * videos.shape[0]
        crops, sizes = self._crops(inputs)
        planes = [torch.ones(n, self.side**2, 1) for n in crops]
        packed = self._pack(planes, sizes, torch.zeros(1), inputs)
        return [anyres_picture(self.side, plane[:, 0]) for plane in packed]

    def to_tokens(self, modality: str, scores: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        planes = scores.view(-1, self.side**2, 1)
        if modality == "video":
            pooled = self.multimodal.apply_pooling(planes).reshape(inputs["pixel_values_videos"].shape[0], -1)
            return torch.nn.functional.pad(pooled, (0, 1)).flatten()
        crops, sizes = self._crops(inputs)
        return torch.cat(self._pack(list(planes.split(crops)), sizes, scores.new_zeros(1), inputs))[:, 0]
