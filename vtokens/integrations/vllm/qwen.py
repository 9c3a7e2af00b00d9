"""Qwen2.5-VL and Qwen3-VL in vLLM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from vllm.model_executor.models import qwen2_5_vl, qwen3_vl
from vllm.multimodal import MULTIMODAL_REGISTRY

from vtokens.core.picture import Picture
from vtokens.integrations.vllm.model import PrunedGrid
from vtokens.integrations.vllm.processing import Info, Processor


class Qwen25Info(Info, qwen2_5_vl.Qwen2_5_VLProcessingInfo):
    """vLLM's info, whose processors are spared our kwargs."""


class Qwen3Info(Info, qwen3_vl.Qwen3VLProcessingInfo):
    """The same for Qwen3-VL."""


class _Gridded(Processor):
    """Processors that tell the grid of each picture."""

    def pictures(self, number: int, items: Any) -> Picture:
        grid = items[number]["image_grid_thw"].data[None]
        return self._choosers.adapter.pictures("image", {"image_grid_thw": grid})[0]  # type: ignore[union-attr]


class Qwen25Processor(_Gridded, qwen2_5_vl.Qwen2_5_VLMultiModalProcessor):
    """vLLM's processor, with fewer placeholders."""


class Qwen3Processor(_Gridded, qwen3_vl.Qwen3VLMultiModalProcessor):
    """The same for Qwen3-VL."""


class _Gridding(PrunedGrid):
    """Models that are told the grid of each picture, and whose tower packs them into one row."""

    visual: Any

    def tower_blocks(self) -> tuple[Sequence[nn.Module], Sequence[nn.Module]]:
        blocks = self.visual.blocks
        return blocks, [block.attn.attn for block in blocks]

    def shown(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        return {"image_grid_thw": kwargs["image_grid_thw"].cpu()}


@MULTIMODAL_REGISTRY.register_processor(
    Qwen25Processor, info=Qwen25Info, dummy_inputs=qwen2_5_vl.Qwen2_5_VLDummyInputsBuilder
)
class Qwen25VL(_Gridding, qwen2_5_vl.Qwen2_5_VLForConditionalGeneration):
    """Qwen2.5-VL. What stays keeps the place in the grid that it had."""


@MULTIMODAL_REGISTRY.register_processor(Qwen3Processor, info=Qwen3Info, dummy_inputs=qwen3_vl.Qwen3VLDummyInputsBuilder)
class Qwen3VL(_Gridding, qwen3_vl.Qwen3VLForConditionalGeneration):
    """Qwen3-VL. Features of earlier tower blocks stand behind those that enter the decoder, and are cut with them."""

    visual_dim: int

    @property
    def width(self) -> int:  # type: ignore[override]
        return self.visual_dim
