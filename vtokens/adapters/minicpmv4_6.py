"""MiniCPM-V 4.6: slices packed into one row, a merger amid the tower and one behind it, Qwen3.5's text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from vtokens.adapters.anatomy import PIXELS, Anatomy, TowerSpec
from vtokens.adapters.base import Adapter
from vtokens.adapters.registry import register_adapter
from vtokens.adapters.tiles_in_text import begun_alike
from vtokens.core.costs import Encoding
from vtokens.core.picture import Picture, side

MERGING = TowerSpec(("vision_tower",), "encoder.layers", "self_attn")


@register_adapter("minicpmv4_6")
class MiniCPMV46(Adapter):
    """MiniCPM-V 4.6. Scores of the patches that a token joins are averaged, before the merger amid the tower or behind.

    An image and its slices are views of one picture, as the tokens in front of them say. The frames of a video are one
    each: the model is not told which of them make a video, and strategies for videos are refused.
    """

    anatomy = Anatomy(
        {"image": MERGING, "video": MERGING},
        {"image": "image_token_id", "video": "video_token_id"},
        apart=True,
        kinds=frozenset(("full", "linear")),
    )
    examples = ("openbmb/MiniCPM-V-4.6",)

    def pictures(self, modality: str, inputs: Mapping[str, Any]) -> list[Picture]:
        grids, factor = self._grids(modality, inputs), self._factor(inputs)
        return [Picture.of([(1, high // factor, wide // factor)], [False], modality) for high, wide in grids]

    def stretches(self, placeholders: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        return begun_alike(placeholders, inputs)

    def to_tokens(self, modality: str, scores: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        grids, factor = self._grids(modality, inputs), self._factor(inputs)
        if len(scores) < sum(high * wide for high, wide in grids):  # a block behind the merger
            grids, factor = [(high // 2, wide // 2) for high, wide in grids], factor // 2
        parts = zip(scores.split([high * wide for high, wide in grids]), grids, strict=True)
        planes = [part.view(1, *grid) for part, grid in parts]
        return torch.cat([torch.nn.functional.avg_pool2d(plane, factor).flatten() for plane in planes])

    def encoding(self, modality: str, inputs: Mapping[str, Any]) -> Encoding:
        vision, grids = self.config.vision_config, self._grids(modality, inputs)
        width, patches = vision.hidden_size, tuple(high * wide for high, wide in grids)
        rows, tokens = sum(patches), sum(map(len, self.pictures(modality, inputs)))
        first, inner, extra = vision.num_hidden_layers, width * 4, vision.window_intermediate_size
        merger: tuple[tuple[int, int, int], ...] = ()
        if self._merges(inputs):
            first, quarter = vision.insert_layer_id + 1, rows // 4
            merger = (*((rows, width, width),) * 4, (rows, width, 8), (quarter, inner, extra), (quarter, extra, width))
        behind = tuple(count // 4 for count in patches)
        return Encoding(
            width,
            vision.intermediate_size,
            gated=False,
            blocks=(*(patches,) * first, *(behind,) * (vision.num_hidden_layers - first)),
            embedding=(rows, vision.num_channels * side(vision.patch_size) ** 2, width),
            projector=(*merger, *self._joined(tokens, inner)),
        )

    def _joined(self, tokens: int, joined: int) -> list[tuple[int, int, int]]:
        """The matrices of the merger behind the tower, which joins squares of four again and again."""
        times, width = self.config.merger_times, self.config.text_config.hidden_size
        rows = [tokens * 4 ** (times - 1 - number) for number in range(times)]
        ends = [joined // 4] * (times - 1) + [width]
        return [
            shape for row, end in zip(rows, ends, strict=True) for shape in ((row, joined, joined), (row, joined, end))
        ]

    def _changed(
        self, modality: str, inputs: Mapping[str, Any], name: str, change: Callable[[Tensor], Tensor]
    ) -> Tensor:
        pixels, cell = inputs[name], side(self.config.vision_config.patch_size)
        rows = pixels[0].unflatten(-1, (-1, cell)).permute(2, 0, 1, 3)  # (patches, C, cell, cell)
        sizes = [high * wide for high, wide in self._grids(modality, inputs)]
        changed = torch.cat([change(part.flatten(1)) for part in rows.split(sizes)])
        return changed.view(rows.shape).permute(1, 2, 0, 3).flatten(-2)[None]

    def _grids(self, modality: str, inputs: Mapping[str, Any]) -> list[tuple[int, int]]:
        """Rows and columns of patches of each picture, slice or frame."""
        video = PIXELS[modality] in inputs and modality == "video"
        return [(high, wide) for high, wide in inputs["target_sizes_videos" if video else "target_sizes"].tolist()]

    def _merges(self, inputs: Mapping[str, Any]) -> bool:
        return (inputs.get("downsample_mode") or self.config.downsample_mode) != "4x" and (
            self.config.vision_config.insert_layer_id >= 0
        )

    def _factor(self, inputs: Mapping[str, Any]) -> int:
        """Patches along each side of a token."""
        high, _ = self.config.merge_kernel_size
        return int(high**self.config.merger_times) * (2 if self._merges(inputs) else 1)
