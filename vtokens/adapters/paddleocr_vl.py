"""PaddleOCR-VL: pages of any size as patches row by row, a projector that joins 2x2 of them, Qwen2-VL's positions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vtokens.adapters import patch_rows
from vtokens.adapters.anatomy import Anatomy, TowerSpec
from vtokens.adapters.qwen2_vl import Qwen2VL, flattened
from vtokens.adapters.registry import register_adapter
from vtokens.core.costs import Encoding

PAGES = TowerSpec(("visual.vision_model",), "encoder.layers", "self_attn", fewer=frozenset(("resize",)))


@register_adapter("paddleocr_vl")
class PaddleOcrVL(Qwen2VL):
    """PaddleOCR-VL. Scores of the patches that a token joins are averaged. What reads text needs most of its tokens."""

    anatomy = Anatomy({"image": PAGES}, axes=3)
    examples = ("PaddlePaddle/PaddleOCR-VL", "PaddlePaddle/PaddleOCR-VL-1.5")

    @property
    def _merge(self) -> int:
        return int(self.config.vision_config.spatial_merge_size)

    def to_tokens(self, modality: str, scores: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        grids = inputs["image_grid_thw"].tolist()
        planes = (
            part.view(t, h, w)
            for part, (t, h, w) in zip(scores.split([t * h * w for t, h, w in grids]), grids, strict=True)
        )
        return torch.cat([torch.nn.functional.avg_pool2d(plane, self._merge).flatten() for plane in planes])

    def _changed(
        self, modality: str, inputs: Mapping[str, Any], name: str, change: Callable[[Tensor], Tensor]
    ) -> Tensor:
        return super()._changed(modality, {**inputs, name: inputs[name].flatten(1)}, name, change).view_as(inputs[name])

    def shown(self, modality: str, inputs: Mapping[str, Any]) -> list[Tensor]:
        rows, vision = inputs["pixel_values"].flatten(1), self.config.vision_config
        return patch_rows.pictures(rows, inputs["image_grid_thw"], vision.patch_size, 1, 1)

    def resized(self, modality: str, inputs: Mapping[str, Any], shown: Sequence[Tensor]) -> dict[str, Any]:
        patch = self.config.vision_config.patch_size
        rows, grids = patch_rows.rows(shown, patch, 1, 1)
        return {
            **flattened(inputs),
            "pixel_values": rows.view(len(rows), -1, patch, patch),
            "image_grid_thw": grids.to(inputs["image_grid_thw"]),
        }

    def encoding(self, modality: str, inputs: Mapping[str, Any]) -> Encoding:
        vision, grids = self.config.vision_config, inputs["image_grid_thw"]
        blocks, width = self.attended(grids), vision.hidden_size
        rows, joined = sum(blocks[0]), width * self._merge**2
        tokens = rows // self._merge**2
        return Encoding(
            width,
            vision.intermediate_size,
            gated=False,
            blocks=blocks,
            embedding=(rows, vision.num_channels * vision.patch_size**2, width),
            projector=((tokens, joined, joined), (tokens, joined, self.config.text_config.hidden_size)),
        )
