"""LLaVA-NeXT: a thumbnail and a grid of crops, unpadded, each row ending in a newline token (AnyRes)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

from vtokens.adapters.llava import LlavaTower
from vtokens.adapters.registry import register_adapter
from vtokens.core.picture import Picture


@register_adapter("llava_next")
class LlavaNext(LlavaTower):
    """LLaVA-NeXT. The model's own `pack_image_features` arranges scores and layout as it arranges features."""

    examples = ("llava-hf/llava-v1.6-mistral-7b-hf", "llava-hf/llava-v1.6-vicuna-7b-hf")

    def _crops(self, inputs: Mapping[str, Any]) -> tuple[list[int], Tensor]:
        """Crops of each image, and the image sizes (images, 2) on the host."""
        sizes = torch.as_tensor(inputs["image_sizes"]).cpu()
        pinpoints, side = (self.config.image_grid_pinpoints, self.config.vision_config.image_size)
        return [image_size_to_num_patches(size.tolist(), pinpoints, side) for size in sizes], sizes

    def tower_inputs(self, modality: str, inputs: Mapping[str, Any]) -> int:
        return sum(self._crops(inputs)[0])

    def _pack(self, planes: list[Tensor], sizes: Tensor, newline: Tensor, inputs: Mapping[str, Any]) -> list[Tensor]:
        """Per image: planes (crops, patches, C) -> (placeholder positions, C)."""
        strategy = inputs.get("vision_feature_select_strategy") or self.config.vision_feature_select_strategy
        return self.multimodal.pack_image_features(planes, sizes, strategy, image_newline=newline)[0]

    def pictures(self, modality: str, inputs: Mapping[str, Any]) -> list[Picture]:
        crops, sizes = self._crops(inputs)
        # Ones for features, a zero for newlines: packed on the host, they show where the newlines went.
        planes = [torch.ones(n, self.side**2, 1) for n in crops]
        packed = self._pack(planes, sizes, torch.zeros(1), inputs)
        return [anyres_picture(self.side, plane[:, 0]) for plane in packed]

    def to_tokens(self, modality: str, scores: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        crops, sizes = self._crops(inputs)
        planes = list(scores.view(-1, self.side**2, 1).split(crops))
        return torch.cat(self._pack(planes, sizes, scores.new_zeros(1), inputs))[:, 0]


def anyres_picture(side: int, real: Tensor) -> Picture:
    """The picture of one AnyRes image.

    Args:
        side: patches along one side of the thumbnail.
        real: float (n,) on the host, 0 at newline positions, positive elsewhere.
    """
    base, rest = side * side, real[side * side :]
    breaks = (rest == 0).nonzero().flatten().tolist()
    if not breaks:
        return Picture.of([(1, side, side)], [False])
    if len(rest) == 1:  # a single crop carries one newline at its end
        return Picture.of([(1, side, side)], [False]).padded(after=1)
    width, height = breaks[0], len(breaks)
    if len(real) != base + height * (width + 1):
        raise ValueError(f"{len(real)} packed positions are not a {side}x{side} thumbnail and {height} rows of {width}")
    return Picture.of([(1, side, side), (1, height, width)], [False, True])
