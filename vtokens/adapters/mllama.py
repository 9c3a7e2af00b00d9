"""Mllama (Llama 3.2 Vision): tiles of a class token and patches, which cross-attention layers of the decoder see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vtokens.adapters.anatomy import Anatomy, Cross, TowerSpec
from vtokens.adapters.base import Adapter
from vtokens.adapters.registry import register_adapter
from vtokens.core.costs import Encoding
from vtokens.core.picture import Picture

TILED = TowerSpec(
    ("vision_model",),
    ("transformer.layers", "global_transformer.layers"),
    "self_attn",
    saliency="[CLS] of each tile",
    class_token="class_embedding",
    tiles="aspect_ratio_mask",
)
_ROUNDED = 8
"""The tower rounds the tokens of a tile up to a multiple of this."""


@register_adapter("mllama")
class Mllama(Adapter):
    """Llama 3.2 Vision. An image is up to four tiles, whose tokens are keys of the decoder's cross-attention layers.

    The class token of each real tile has a vote on all patches of its image. Class tokens are no visual tokens, and
    stay; tiles and images that are padding go from every row that loses tokens.
    """

    anatomy = Anatomy(
        {"image": TILED},
        kinds=frozenset(("full", "cross")),
        stages=frozenset(("prompt",)),
        cross=Cross(
            states="cross_attention_states",
            mask="cross_attention_mask",
            others=frozenset(("full_text_row_masked_out_mask",)),
            layers="cross_attention_layers",
        ),
    )
    examples = ("meta-llama/Llama-3.2-11B-Vision-Instruct", "meta-llama/Llama-3.2-90B-Vision-Instruct")

    def pictures(self, modality: str, inputs: Mapping[str, Any]) -> list[Picture]:
        shapes = self.config.vision_config.supported_aspect_ratios
        numbers = inputs["aspect_ratio_ids"].flatten().tolist()
        return [_picture(shapes[number - 1], self._side) for number in numbers if number]

    def placeholders(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """ "image" -> bool (B, K), the keys that hold tokens of real tiles; from the arguments of the tower."""
        return {"image": self._tiles(inputs).repeat_interleave(1 + self._side**2, 2).flatten(1)}

    def to_tokens(self, modality: str, scores: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        real = self._tiles(inputs).to(scores.device).flatten().nonzero()[:, 0]
        patches = scores.reshape(-1, self._rounded).index_select(0, real)[:, 1 : 1 + self._side**2]
        return torch.nn.functional.pad(patches, (1, 0)).flatten()

    def encoding(self, modality: str, inputs: Mapping[str, Any]) -> Encoding:
        vision, tiles = self.config.vision_config, inputs["pixel_values"].shape[2]
        pictures, patches = inputs["pixel_values"].shape[0] * inputs["pixel_values"].shape[1], self._side**2
        return Encoding(
            vision.hidden_size,
            vision.intermediate_size,
            gated=False,
            blocks=((tiles * self._rounded,) * pictures,) * (vision.num_hidden_layers + vision.num_global_layers),
            embedding=(pictures * tiles * patches, vision.num_channels * vision.patch_size**2, vision.hidden_size),
            projector=(
                (pictures * tiles * (1 + patches), vision.vision_output_dim, self.config.text_config.hidden_size),
            ),
        )

    @property
    def _side(self) -> int:
        """Patches along a side of a tile."""
        vision = self.config.vision_config
        return int(vision.image_size // vision.patch_size)

    @property
    def _rounded(self) -> int:
        """Tokens of a tile inside the tower, which pads them."""
        return -(-(1 + self._side**2) // _ROUNDED) * _ROUNDED

    def _tiles(self, inputs: Mapping[str, Any]) -> Tensor:
        """bool (B, images, tiles): which hold a part of an image; the ids of aspect ratios that are padding are 0."""
        ids = inputs["aspect_ratio_ids"]
        sizes = [0, *(high * wide for high, wide in self.config.vision_config.supported_aspect_ratios)]
        count = torch.tensor(sizes, device=ids.device)[ids]
        return torch.arange(self.config.vision_config.max_num_tiles, device=ids.device) < count[..., None]


def _picture(shape: Sequence[int], side: int) -> Picture:
    """An image of rows and columns of tiles, one behind the other: a class token, then `side` x `side` patches."""
    parts, (high, wide) = [], shape
    for row, column in np.ndindex(high, wide):
        tile = Picture.of([(1, side, side)], [False])
        tile = replace(tile, y=tile.y + row * side, x=tile.x + column * side)
        parts.append(tile.padded(before=1))
    planes = [np.concatenate([getattr(part, name) for part in parts]) for name in ("view", "t", "y", "x")]
    return Picture("image", ((1, high * side, wide * side),), *planes)
