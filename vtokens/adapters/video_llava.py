"""Video-LLaVA: square pictures and frames of patches, a tower for each of the two."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vtokens.adapters.anatomy import Anatomy
from vtokens.adapters.llava import CLIP, Llava
from vtokens.adapters.registry import register_adapter
from vtokens.core.costs import Encoding
from vtokens.core.picture import Picture


@register_adapter("video_llava")
class VideoLlava(Llava):
    """Video-LLaVA. Each frame of a video keeps its class token in front of it, which no strategy drops."""

    anatomy = Anatomy(
        {"image": replace(CLIP, at=("image_tower",)), "video": replace(CLIP, at=("video_tower",))},
        {"image": "image_token_id", "video": "video_token_id"},
    )
    examples = ("LanguageBind/Video-LLaVA-7B-hf",)

    def check_merging(self, inputs: Mapping[str, Any]) -> None:
        if "pixel_values_videos" in inputs:
            raise ValueError(
                "frames go through a tower of their own in a Video-LLaVA, and where to merge tokens is known of "
                "the tower of images: use a strategy that prunes behind the tower, or give it images only"
            )
        super().check_merging(_named(inputs))

    def keeps_cls(self, inputs: Mapping[str, Any]) -> bool:
        return "pixel_values_videos" in inputs or super().keeps_cls(inputs)

    def tower_inputs(self, modality: str, inputs: Mapping[str, Any]) -> int:
        shape = _named(inputs)["pixel_values_videos" if modality == "video" else "pixel_values"].shape
        return math.prod(shape[:-3])

    def pictures(self, modality: str, inputs: Mapping[str, Any]) -> list[Picture]:
        if modality != "video":
            return super().pictures(modality, _named(inputs))
        count, frames, _, *size = inputs["pixel_values_videos"].shape
        high, wide = (pixels // self.config.vision_config.patch_size for pixels in size)
        return [Picture.of([(frames, high, wide)], [False], "video").framed(before=1)] * count

    def to_tokens(self, modality: str, scores: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        if not self.keeps_cls(inputs):
            return scores
        return torch.nn.functional.pad(scores.view(self.tower_inputs(modality, inputs), -1), (1, 0)).flatten()

    def encoding(self, modality: str, inputs: Mapping[str, Any]) -> Encoding:
        return super().encoding(modality, _named(inputs))

    def change_pixels(
        self, modality: str, inputs: Mapping[str, Any], change: Callable[[Tensor], Tensor]
    ) -> dict[str, Any]:
        return super().change_pixels(modality, _named(inputs), change)


def _named(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a feature call, in which pixels of images go by the name they have had since 5.23."""
    named = dict(inputs)
    older = named.pop("pixel_values_images", None)
    return named if older is None else {**named, "pixel_values": older}
