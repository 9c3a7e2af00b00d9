"""LLaVA-OneVision: AnyRes as in LLaVA-NeXT, large pictures scaled down, videos pooled 2x2 per frame."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape

from vtokens.adapters.anatomy import Anatomy
from vtokens.adapters.llava import CLIP
from vtokens.adapters.llava_next import LlavaNext
from vtokens.adapters.registry import register_adapter
from vtokens.core.picture import Picture

SIGLIP = replace(CLIP, saliency="mean attention")
"""A tower without a class token."""


@register_adapter("llava_onevision")
class LlavaOnevision(LlavaNext):
    """LLaVA-OneVision. The model's own packing and pooling arrange scores as they arrange features."""

    anatomy = Anatomy({"image": SIGLIP, "video": SIGLIP}, {"image": "image_token_id", "video": "video_token_id"})
    examples = ("llava-hf/llava-onevision-qwen2-7b-ov-hf", "llava-hf/llava-onevision-qwen2-0.5b-ov-hf")

    def _crops(self, inputs: Mapping[str, Any]) -> tuple[list[int], Tensor]:
        crops, sizes = super()._crops(inputs)
        groups = inputs.get("batch_num_images")
        if groups is None:
            return crops, sizes
        # Only a sample with a single image is cut into crops.
        several = [n > 1 for n in torch.as_tensor(groups).tolist() for _ in range(n)]
        return [1 if whole else n for n, whole in zip(crops, several, strict=True)], sizes

    def check_pixels(self, modality: str, inputs: Mapping[str, Any], fewer: str) -> None:
        super().check_pixels(modality, inputs, fewer)
        scaled = "videos" if modality == "video" else "a picture of so many tiles" if self._scales(inputs) else None
        if fewer == "resize" and scaled is not None:
            raise ValueError(
                f"features of {scaled} are scaled down behind the tower of a LLaVA-OneVision, where blends of those of "
                "a smaller picture would be as many tokens as before: give the processor smaller pictures, or use a "
                "strategy that prunes behind the tower, as 'uniform'"
            )

    def _scales(self, inputs: Mapping[str, Any]) -> bool:
        """Whether tiles of a picture have more features than a picture may, so that they are scaled down."""
        for crops, size, picture in zip(*self._crops(inputs), self.pictures("image", inputs), strict=True):
            if crops > 1 and len(picture.grids) > 1:
                pinpoints, side = self.config.image_grid_pinpoints, self.config.vision_config.image_size
                rows, columns = get_anyres_image_grid_shape(size.tolist(), pinpoints, side)
                # Padding is cut off along one side alone.
                if picture.grids[1][1] < rows * self.side and picture.grids[1][2] < columns * self.side:
                    return True
        return False

    def tower_inputs(self, modality: str, inputs: Mapping[str, Any]) -> int:
        if modality != "video":
            return super().tower_inputs(modality, inputs)
        return math.prod(inputs["pixel_values_videos"].shape[:2])

    def _pack(self, planes: list[Tensor], sizes: Tensor, newline: Tensor, inputs: Mapping[str, Any]) -> list[Tensor]:
        ratio = inputs.get("vision_aspect_ratio") or self.config.vision_aspect_ratio
        return self.multimodal.pack_image_features(planes, sizes, image_newline=newline, vision_aspect_ratio=ratio)[0]

    def pictures(self, modality: str, inputs: Mapping[str, Any]) -> list[Picture]:
        if modality != "video":
            return super().pictures(modality, inputs)
        videos, pooled = inputs["pixel_values_videos"], math.ceil(self.side / 2)
        video = Picture.of([(videos.shape[1], pooled, pooled)], [False], "video").padded(after=1)
        return [video] * videos.shape[0]

    def to_tokens(self, modality: str, scores: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        if modality != "video":
            return super().to_tokens(modality, scores, inputs)
        pooled = self.multimodal.apply_pooling(scores.view(-1, self.side**2, 1))
        return torch.nn.functional.pad(pooled.reshape(inputs["pixel_values_videos"].shape[0], -1), (0, 1)).flatten()
