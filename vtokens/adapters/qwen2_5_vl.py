"""Qwen2.5-VL: Qwen2-VL with window attention in most blocks, which reorders the tower's rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor
from transformers.vision_utils import get_vision_window_index

from vtokens.adapters.anatomy import Anatomy
from vtokens.adapters.qwen2_vl import PLACEHOLDERS, VISUAL, Qwen2VL
from vtokens.adapters.registry import register_adapter
from vtokens.core.on_device import on_device

WINDOWS = replace(VISUAL, full="fullatt_block_indexes")
"""In a window block a patch competes only with its window, so its score says little about the picture."""


@register_adapter("qwen2_5_vl")
class Qwen25VL(Qwen2VL):
    """Qwen2.5-VL. Saliency comes from the last full-attention block, back in raster order."""

    anatomy = Anatomy({"image": WINDOWS, "video": WINDOWS}, PLACEHOLDERS, axes=3)
    examples = ("Qwen/Qwen2.5-VL-3B-Instruct", "Qwen/Qwen2.5-VL-7B-Instruct")

    @property
    def tower_widths(self) -> tuple[int, int, bool]:
        vision = self.config.vision_config
        return vision.hidden_size, vision.intermediate_size, True

    def attended(self, grids: Tensor) -> tuple[tuple[int, ...], ...]:
        whole, (_, bounds) = super().attended(grids), self._windows(grids)
        windows, full = tuple(bounds.diff().tolist()), self.multimodal.visual.fullatt_block_indexes
        return tuple(frames if block in full else windows for block, frames in enumerate(whole))

    def to_tokens(self, modality: str, scores: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        order = inputs.get("window_index")  # given where the tower works on some of its tokens
        if order is None:
            return super().to_tokens(modality, scores, inputs)
        return scores.view(-1, self._merge**2).mean(1)[on_device(order, scores.device).argsort()]

    def restore(self, merged: Tensor, grids: Tensor) -> Tensor:
        order, _ = self._windows(grids)
        return merged[on_device(order, merged.device).long().argsort()]

    def _windows(self, grids: Tensor) -> tuple[Tensor, Tensor]:
        """The order in which the tower works, and the bounds of its windows in that order."""
        visual = self.multimodal.visual
        return get_vision_window_index(
            grids,
            spatial_merge_size=visual.spatial_merge_size,
            window_size=visual.window_size,
            patch_size=visual.patch_size,
        )
