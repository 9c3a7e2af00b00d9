"""LFM2-VL: a SigLIP 2 tower of padded patches, and a decoder in which most layers are short convolutions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from vtokens.adapters.anatomy import Anatomy, TowerSpec
from vtokens.adapters.base import Adapter
from vtokens.adapters.registry import register_adapter
from vtokens.adapters.tiles_in_text import written_together
from vtokens.core.costs import Encoding
from vtokens.core.picture import Picture

NAFLEX = TowerSpec(("vision_tower.vision_model", "vision_tower"), "encoder.layers", "self_attn")


@register_adapter("lfm2_vl")
class Lfm2VL(Adapter):
    """LFM2-VL. A token joins `downsample_factor` x `downsample_factor` patches, whose scores are averaged.

    The tiles of an image and the whole of it, the last one, are views of one picture; text between stays.
    """

    anatomy = Anatomy({"image": NAFLEX}, norm="embedding_norm", kinds=frozenset(("full", "linear")))
    examples = ("LiquidAI/LFM2-VL-450M", "LiquidAI/LFM2-VL-1.6B", "LiquidAI/LFM2-VL-3B")

    def pictures(self, modality: str, inputs: Mapping[str, Any]) -> list[Picture]:
        factor = self.config.downsample_factor
        return [
            Picture.of([(1, high // factor, wide // factor)], [False])
            for high, wide in inputs["spatial_shapes"].tolist()
        ]

    def stretches(self, placeholders: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        # Each tile is announced by a token of its own; one of another kind ends an image.
        return written_together(placeholders, inputs, ends=0)

    def to_tokens(self, modality: str, scores: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        shapes, factor = inputs["spatial_shapes"].tolist(), self.config.downsample_factor
        rows = scores.view(len(shapes), -1)
        planes = (row[: high * wide].view(1, high, wide) for row, (high, wide) in zip(rows, shapes, strict=True))
        return torch.cat([torch.nn.functional.avg_pool2d(plane, factor).flatten() for plane in planes])

    def encoding(self, modality: str, inputs: Mapping[str, Any]) -> Encoding:
        vision, config = self.config.vision_config, self.config
        (count, rows, _), tokens = inputs["pixel_values"].shape, sum(map(len, self.pictures(modality, inputs)))
        joined, inner = vision.hidden_size * config.downsample_factor**2, config.projector_hidden_size
        return Encoding(
            vision.hidden_size,
            vision.intermediate_size,
            gated=False,
            blocks=((rows,) * count,) * vision.num_hidden_layers,
            embedding=(count * rows, vision.num_channels * vision.patch_size**2, vision.hidden_size),
            projector=((tokens, joined, inner), (tokens, inner, config.text_config.hidden_size)),
        )

    def _changed(
        self, modality: str, inputs: Mapping[str, Any], name: str, change: Callable[[Tensor], Tensor]
    ) -> Tensor:
        pixels, real = inputs[name].clone(), inputs["pixel_attention_mask"].bool().to(inputs[name].device)
        for rows, inside in zip(pixels, real, strict=True):  # what pads them stays
            rows[inside] = change(rows[inside])
        return pixels
