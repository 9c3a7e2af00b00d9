"""Idefics3: square tiles of SigLIP patches, a pixel shuffle that joins neighbours, parts under names of their own."""

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

NAVIT = TowerSpec(("vision_model",), "encoder.layers", "self_attn")
_NEXT_TO_NOTHING = 2.0**-24
"""The smallest pixel that is 0 in no dtype that towers compute in: less than rounding leaves of others."""


@register_adapter("idefics3")
class Idefics3(Adapter):
    """Idefics3. The tiles of an image and the whole of it, the last one, are views of one picture; text between stays.

    A token joins `scale_factor` x `scale_factor` patches, whose scores are averaged.
    """

    anatomy = Anatomy({"image": NAVIT}, decoder="text_model")
    examples = ("HuggingFaceM4/Idefics3-8B-Llama3",)

    def pictures(self, modality: str, inputs: Mapping[str, Any]) -> list[Picture]:
        height, width = (side // self.config.scale_factor for side in self._patches(inputs))
        return [Picture.of([(1, height, width)], [False])] * int(_real(inputs).sum())

    def stretches(self, placeholders: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        # One mark ends a tile and begins the next; an image is ended by a mark of its own.
        return written_together(placeholders, inputs, ends=1)

    def to_tokens(self, modality: str, scores: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        planes = scores.view(-1, 1, *self._patches(inputs))
        return torch.nn.functional.avg_pool2d(planes, self.config.scale_factor).flatten()

    def encoding(self, modality: str, inputs: Mapping[str, Any]) -> Encoding:
        vision, width, factor = self.config.vision_config, self.config.text_config.hidden_size, self.config.scale_factor
        count, (high, wide) = int(_real(inputs).sum()), self._patches(inputs)
        tokens, joined = count * high * wide // factor**2, vision.hidden_size * factor**2
        return Encoding(
            vision.hidden_size,
            vision.intermediate_size,
            gated=False,
            blocks=((high * wide,) * count,) * vision.num_hidden_layers,
            embedding=(count * high * wide, vision.num_channels * vision.patch_size**2, vision.hidden_size),
            projector=((tokens, joined, width),),
        )

    def _patches(self, inputs: Mapping[str, Any]) -> tuple[int, int]:
        """Rows and columns of patches in a tile."""
        pixels, patch = inputs["pixel_values"], self.config.vision_config.patch_size
        return pixels.shape[-2] // patch, pixels.shape[-1] // patch

    def _changed(
        self, modality: str, inputs: Mapping[str, Any], name: str, change: Callable[[Tensor], Tensor]
    ) -> Tensor:
        pixels = inputs[name]
        # What only evens out the rows of a batch is 0 all over, and told by that: other tiles must not become so.
        changed = change(pixels)
        empty = (changed == 0).flatten(2).all(-1)[..., None, None, None]
        changed = torch.where(empty, _NEXT_TO_NOTHING, changed)
        return torch.where(_real(inputs).to(pixels.device)[..., None, None, None], changed, pixels)


def _real(inputs: Mapping[str, Any]) -> Tensor:
    """bool (B, tiles): which pictures are none that only even out the rows of a batch, as the model tells them."""
    pixels, mask = inputs["pixel_values"], inputs.get("pixel_attention_mask")
    if not pixels.is_meta:
        return (pixels != 0).flatten(2).any(-1)
    if mask is None:
        return torch.ones(pixels.shape[:2], dtype=torch.bool)
    return mask.flatten(2).bool().any(-1)  # features that were stored come without their pixels
