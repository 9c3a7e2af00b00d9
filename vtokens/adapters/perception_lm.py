"""Perception-LM: a thumbnail and tiles of an image, or frames of a video, that a tower of timm's encodes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from vtokens.adapters.anatomy import Anatomy
from vtokens.adapters.registry import register_adapter
from vtokens.adapters.timm import TIMM, Timm
from vtokens.core.costs import Encoding
from vtokens.core.picture import Picture, side


@register_adapter("perception_lm")
class PerceptionLM(Timm):
    """Perception-LM. Features are pooled behind the projector.

    The thumbnail of an image, which comes first, and its tiles are views of one picture. transformers encodes videos
    inside of the pass, so that beams repeat their pixels: of several videos in a sample it then mixes the frames up,
    with strategies or without, and such calls are refused.
    """

    anatomy = Anatomy(
        {"image": TIMM, "video": TIMM},
        {"image": "image_token_id", "video": "video_token_id"},
        calls={"video": "get_image_features"},
    )
    examples = ("facebook/Perception-LM-1B", "facebook/Perception-LM-8B")

    def pictures(self, modality: str, inputs: Mapping[str, Any]) -> list[Picture]:
        count, views, high, wide = self._patches(inputs)
        high, wide = high // self.config.projector_pooling_ratio, wide // self.config.projector_pooling_ratio
        grids = [(views, high, wide)] if modality == "video" else [(1, high, wide)] * views
        return [Picture.of(grids, [False] * len(grids), modality)] * count

    def encoding(self, modality: str, inputs: Mapping[str, Any]) -> Encoding:
        timm, width = self.timm, self.config.text_config.hidden_size
        count, views, high, wide = self._patches(inputs)
        tiles, patches, channels = count * views, high * wide, timm.embed_dim
        rows = tiles * patches  # they are pooled behind the projector
        return Encoding(
            channels,
            timm.blocks[0].mlp.fc1.out_features,
            gated=False,
            blocks=((patches + timm.num_prefix_tokens,) * tiles,) * len(timm.blocks),
            embedding=(rows, 3 * side(timm.patch_embed.patch_size) ** 2, channels),
            projector=((rows, channels, width), (rows, width, width)),
        )

    def _patches(self, inputs: Mapping[str, Any]) -> tuple[int, int, int, int]:
        """Pictures of a call, tiles or frames of each, rows and columns of patches of each of those."""
        *shape, _, high, wide = inputs["pixel_values"].shape
        patch = side(self.timm.patch_embed.patch_size)
        return math.prod(shape[:-1]), shape[-1], high // patch, wide // patch
