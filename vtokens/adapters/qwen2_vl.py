"""Qwen2-VL: dynamic resolution, a 2x2 merger after the tower, M-RoPE positions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from vtokens.adapters import patch_rows
from vtokens.adapters.anatomy import PIXELS, Anatomy, TowerSpec
from vtokens.adapters.open_tower import OpenTower
from vtokens.adapters.registry import register_adapter
from vtokens.core.costs import Encoding
from vtokens.core.picture import Picture

VISUAL = TowerSpec(("visual",), "blocks", "attn", fewer=frozenset(("resize", "repeats")), projector="visual.merger")
PLACEHOLDERS = {"image": "image_token_id", "video": "video_token_id"}


@register_adapter("qwen2_vl")
class Qwen2VL(OpenTower):
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

    def projected_to_tokens(self, modality: str, scores: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        return self.restore(scores, inputs[f"{modality}_grid_thw"])

    def _changed(
        self, modality: str, inputs: Mapping[str, Any], name: str, change: Callable[[Tensor], Tensor]
    ) -> Tensor:
        sizes = inputs[f"{modality}_grid_thw"].prod(-1).tolist()
        return torch.cat([change(part) for part in inputs[name].split(sizes)])

    def shown(self, modality: str, inputs: Mapping[str, Any]) -> list[Tensor]:
        rows, grids, vision = (
            inputs[_pixels(modality, inputs)],
            inputs[f"{modality}_grid_thw"],
            self.config.vision_config,
        )
        return patch_rows.pictures(rows, grids, vision.patch_size, vision.temporal_patch_size, self._merge)

    def resized(self, modality: str, inputs: Mapping[str, Any], shown: Sequence[Tensor]) -> dict[str, Any]:
        name, grids, vision = _pixels(modality, inputs), inputs[f"{modality}_grid_thw"], self.config.vision_config
        rows, found = patch_rows.rows(shown, vision.patch_size, vision.temporal_patch_size, self._merge)
        return {**flattened(inputs), name: rows, f"{modality}_grid_thw": found.to(grids)}

    def without_repeats(self, modality: str, inputs: Mapping[str, Any], shown: Tensor) -> dict[str, Any]:
        name, grids, unit = _pixels(modality, inputs), inputs[f"{modality}_grid_thw"], self._merge**2
        rows, lengths = inputs[name], (grids.prod(-1) // unit).tolist()
        stay = shown.nonzero().flatten()  # the device is read here, as the tower has to know how long its rows are
        counts = torch.stack([part.sum() for part in shown.split(lengths)]).tolist()
        fed = rows.unflatten(0, (-1, unit))[stay.to(rows.device)].flatten(0, 1)
        # A grid of one row of tokens each: what depends on the places, the tower is given.
        flat = grids.new_tensor([[1, self._merge, self._merge * count] for count in counts])
        return {
            **flattened(inputs), name: fed, f"{modality}_grid_thw": flat,
            **patch_rows.places(self.multimodal.visual, grids, stay, shown),
        }  # fmt: skip

    def prompt_positions(self, given: Mapping[str, Any], features: Sequence[Mapping[str, Any]]) -> Tensor:
        kinds = given.get("mm_token_type_ids")
        if kinds is None:
            ids = given["input_ids"]
            kinds = sum((ids == token) * number for number, token in enumerate(self.placeholder_ids.values(), 1))
        names = ("image_grid_thw", "video_grid_thw", "second_per_grid_ts")
        # How long a grid of a video lasts is no argument of its feature call, but made by the processor beside it.
        grids = {name: one[name] for one in (given, *features) for name in names if one.get(name) is not None}
        mask = given["attention_mask"]
        found = self.multimodal.get_rope_index(given["input_ids"], kinds.to(mask.device), attention_mask=mask, **grids)
        return found[0]

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


def _pixels(modality: str, inputs: Mapping[str, Any]) -> str:
    """The argument with the pixels of a modality: the feature call of images may be asked for both."""
    return PIXELS[modality] if PIXELS[modality] in inputs else PIXELS["image"]


def flattened(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a feature call, those that it takes by any name among them."""
    return {**{name: value for name, value in inputs.items() if name != "kwargs"}, **inputs.get("kwargs", {})}
