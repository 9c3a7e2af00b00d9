"""LLaVA-NeXT-Video: pictures as in LLaVA-NeXT, videos whose frames are pooled before the projector."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vtokens.adapters.anatomy import Anatomy
from vtokens.adapters.llava import CLIP
from vtokens.adapters.llava_next import LlavaNext
from vtokens.adapters.registry import register_adapter
from vtokens.core.costs import Encoding
from vtokens.core.picture import Picture


@register_adapter("llava_next_video")
class LlavaNextVideo(LlavaNext):
    """LLaVA-NeXT-Video. A frame's scores are averaged over what its pooling joins, however that joins features."""

    anatomy = Anatomy({"image": CLIP, "video": CLIP}, {"image": "image_token_id", "video": "video_token_id"})
    examples = ("llava-hf/LLaVA-NeXT-Video-7B-hf", "llava-hf/LLaVA-NeXT-Video-34B-hf")

    def check_merging(self, inputs: Mapping[str, Any]) -> None:
        if "pixel_values_videos" in inputs:
            raise ValueError(
                "the frames of a LLaVA-NeXT-Video are pooled as squares of patches, which they no longer are when "
                "tokens were merged in the tower: use a strategy that prunes behind the tower"
            )
        super().check_merging(inputs)

    def check_pixels(self, modality: str, inputs: Mapping[str, Any], fewer: str) -> None:
        if "pixel_values_videos" in inputs:
            raise ValueError(
                "the frames of a LLaVA-NeXT-Video are pooled as squares of patches, so that the tower cannot be shown "
                "less of them: use a strategy that prunes behind the tower, as 'uniform', or take fewer frames"
            )
        super().check_pixels(modality, inputs, fewer)

    def tower_inputs(self, modality: str, inputs: Mapping[str, Any]) -> int:
        if modality != "video":
            return super().tower_inputs(modality, inputs)
        return math.prod(inputs["pixel_values_videos"].shape[:2])

    def pictures(self, modality: str, inputs: Mapping[str, Any]) -> list[Picture]:
        if modality != "video":
            return super().pictures(modality, inputs)
        videos, pooled = inputs["pixel_values_videos"], self.side // self.config.spatial_pool_stride
        return [Picture.of([(videos.shape[1], pooled, pooled)], [False], "video")] * videos.shape[0]

    def to_tokens(self, modality: str, scores: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        if modality != "video":
            return super().to_tokens(modality, scores, inputs)
        frames = scores.view(-1, 1, self.side, self.side)
        return torch.nn.functional.avg_pool2d(frames, self.config.spatial_pool_stride).flatten()

    def projected_to_tokens(self, modality: str, scores: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        return scores if modality == "video" else super().projected_to_tokens(modality, scores, inputs)

    def encoding(self, modality: str, inputs: Mapping[str, Any]) -> Encoding:
        encoding = super().encoding(modality, inputs)
        if modality != "video":
            return encoding
        rows = sum(map(len, self.pictures(modality, inputs)))
        return replace(encoding, projector=tuple((rows, *shape[1:]) for shape in encoding.projector))
