"""Pixtral's tower, which packs the pictures of a call into one row: what the families with it share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from vtokens.adapters.anatomy import Anatomy, TowerSpec
from vtokens.adapters.base import Adapter
from vtokens.core.costs import Encoding
from vtokens.core.picture import Picture

PIXTRAL = TowerSpec(("vision_tower",), "transformer.layers", "attention", layer="vision_feature_layer")


class Pixtral(Adapter):
    """A family with Pixtral's tower. `factor` x `factor` patches make a token; tokens that end rows are text."""

    anatomy = Anatomy({"image": PIXTRAL})

    @property
    def factor(self) -> int:
        """Patches along each side of a token."""
        return 1

    def packed(self, modality: str, inputs: Mapping[str, Any]) -> list[int]:
        return [high * wide for high, wide in self._patches(inputs)]

    def pictures(self, modality: str, inputs: Mapping[str, Any]) -> list[Picture]:
        grids = [(1, high // self.factor, wide // self.factor) for high, wide in self._patches(inputs)]
        return [Picture.of([grid], [False]) for grid in grids]

    def to_tokens(self, modality: str, scores: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        sizes = self._patches(inputs)
        planes = [
            part.view(1, *size) for part, size in zip(scores.split(self.packed(modality, inputs)), sizes, strict=True)
        ]
        return torch.cat([torch.nn.functional.avg_pool2d(plane, self.factor).flatten() for plane in planes])

    def encoding(self, modality: str, inputs: Mapping[str, Any]) -> Encoding:
        vision, text, lengths = self.config.vision_config, self.config.text_config, self.packed(modality, inputs)
        tokens, layers = sum(lengths) // self.factor**2, getattr(self.config, "vision_feature_layer", -1)
        features = vision.hidden_size * (1 if isinstance(layers, int) else len(layers))
        # The convolution runs over pictures as they are padded, and masks of blocks cost the whole row.
        pixels, patch = inputs["pixel_values"], vision.patch_size
        rows = len(pixels) * (pixels.shape[-2] // patch) * (pixels.shape[-1] // patch)
        merged = ((tokens, features * self.factor**2, features),) if self.factor > 1 else ()
        return Encoding(
            vision.hidden_size,
            vision.intermediate_size,
            gated=True,
            blocks=((sum(lengths),),) * vision.num_hidden_layers,
            embedding=(rows, vision.num_channels * patch**2, vision.hidden_size),
            projector=(*merged, (tokens, features, text.hidden_size), (tokens, text.hidden_size, text.hidden_size)),
        )

    def _changed(
        self, modality: str, inputs: Mapping[str, Any], name: str, change: Callable[[Tensor], Tensor]
    ) -> Tensor:
        pixels = inputs[name].clone()
        for plane, (high, wide) in zip(pixels, self._sizes(inputs), strict=True):
            plane[:, :high, :wide] = change(plane[:, :high, :wide])
        return pixels

    def _patches(self, inputs: Mapping[str, Any]) -> list[tuple[int, int]]:
        """Rows and columns of patches of each picture."""
        patch = self.config.vision_config.patch_size
        return [(high // patch, wide // patch) for high, wide in self._sizes(inputs)]

    def _sizes(self, inputs: Mapping[str, Any]) -> list[tuple[int, int]]:
        """Height and width of each picture; the rest of its pixels only evens out the call."""
        pixels, sizes = inputs["pixel_values"], inputs.get("image_sizes")
        return (
            [(pixels.shape[-2], pixels.shape[-1])] * len(pixels) if sizes is None else torch.as_tensor(sizes).tolist()
        )


class LlavaPixtral(Pixtral):
    """LLaVA with Pixtral's tower. Every patch is a token."""

    model_type = "llava"
