"""Qwen2.5-VL: Qwen2-VL with window attention in most blocks, which reorders the tower's rows."""

from __future__ import annotations

from torch import Tensor
from transformers.vision_utils import get_vision_window_index

from vtokens.adapters.base import register_adapter
from vtokens.adapters.qwen2_vl import Qwen2VL


@register_adapter("qwen2_5_vl")
class Qwen25VL(Qwen2VL):
    """Qwen2.5-VL. Saliency comes from the last full-attention block, back in raster order."""

    examples = ("Qwen/Qwen2.5-VL-3B-Instruct", "Qwen/Qwen2.5-VL-7B-Instruct")

    @property
    def feature_block(self) -> int:
        # In a window block a patch competes only with its window, so its score says little about the picture.
        full = self.multimodal.visual.fullatt_block_indexes
        return max(full) if full else super().feature_block

    def restore(self, merged: Tensor, grids: Tensor) -> Tensor:
        visual = self.multimodal.visual
        order, _ = get_vision_window_index(
            grids,
            spatial_merge_size=visual.spatial_merge_size,
            window_size=visual.window_size,
            patch_size=visual.patch_size,
        )
        return merged[order.to(merged.device).long().argsort()]
