"""Qwen2-VL: dynamic resolution, a 2x2 merger after the tower, M-RoPE positions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from vtokens.adapters.anatomy import Anatomy, TowerSpec
from vtokens.adapters.base import Adapter
from vtokens.adapters.registry import register_adapter
from vtokens.core.costs import Encoding
from vtokens.core.picture import Picture

VISUAL = TowerSpec(("visual",), "blocks", "attn")
PLACEHOLDERS = {"image": "image_token_id", "video": "video_token_id"}


@register_adapter("qwen2_vl")
class Qwen2VL(Adapter):
    """Qwen2-VL. Scores of the four patches that the merger joins are averaged."""

    examples: ClassVar[tuple[str, ...]] = ("Qwen/Qwen2-VL-2B-Instruct", "Qwen/Qwen2-VL-7B-Instruct")

    anatomy = Anatomy({"image": VISUAL, "video": VISUAL}, PLACEHOLDERS, axes=3)

    @property
    def _merge(self) -> int:
        return self.multimodal.visual.spatial_merge_size

    def pictures(self, modality: str, inputs: Mapping[str, Any]) -> list[Picture]:
        merge = self._merge
        return [
            Picture.of([(t, h // merge, w // merge)], [False], modality)
            for t, h, w in inputs[f"{modality}_grid_thw"].tolist()
        ]

    def to_tokens(self, modality: str, scores: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        return self.restore(scores.view(-1, self._merge**2).mean(1), inputs[f"{modality}_grid_thw"])

    def _changed(
        self, modality: str, inputs: Mapping[str, Any], name: str, change: Callable[[Tensor], Tensor]
    ) -> Tensor:
        sizes = inputs[f"{modality}_grid_thw"].prod(-1).tolist()
        return torch.cat([change(part) for part in inputs[name].split(sizes)])

    def prompt_positions(self, given: Mapping[str, Any], features: Sequence[Mapping[str, Any]]) -> Tensor:
        kinds = given.get("mm_token_type_ids")
        if kinds is None:
            ids = given["input_ids"]
            kinds = sum((ids == token) * number for number, token in enumerate(self.placeholder_ids.values(), 1))
        names = ("image_grid_thw", "video_grid_thw", "second_per_grid_ts")
        # How long a grid of a video lasts is no argument of its feature call, but made by the processor beside it.
        grids = {name: one[name] for one in (given, *features) for name in names if one.get(name) is not None}
        mask = given["attention_mask"]
        return self.multimodal.get_rope_index(given["input_ids"], kinds.to(mask.device), attention_mask=mask, **grids)[
            0
        ]

    def encoding(self, modality: str, inputs: Mapping[str, Any]) -> Encoding:
        vision, text, grids = self.config.vision_config, self.config.text_config, inputs[f"{modality}_grid_thw"]
        width, inner, gated = self.tower_widths
        blocks = self.attended(grids)
        rows, joined = sum(blocks[0]), width * self._merge**2
        merged, cube = rows // self._merge**2, vision.temporal_patch_size * vision.patch_size**2
        return Encoding(
            width,
            inner,
            gated,
            blocks,
            embedding=(rows, vision.in_channels * cube, width),
            projector=((merged, joined, joined), (merged, joined, text.hidden_size)),
        )

    @property
    def tower_widths(self) -> tuple[int, int, bool]:
        """Channels of a tower block and of its MLP, and whether that MLP is gated."""
        vision = self.config.vision_config
        return vision.embed_dim, int(vision.embed_dim * vision.mlp_ratio), False

    def attended(self, grids: Tensor) -> tuple[tuple[int, ...], ...]:
        """For each tower block, the lengths of the sequences within which it attends: a frame each."""
        frames = tuple(h * w for t, h, w in grids.tolist() for _ in range(t))
        return (frames,) * len(self.tower.blocks)

    def restore(self, merged: Tensor, grids: Tensor) -> Tensor:
        """Undo the order in which the tower worked: (tokens,) -> (tokens,), one call of the tower."""
        return merged
