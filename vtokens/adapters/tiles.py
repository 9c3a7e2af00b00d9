"""Square tower inputs whose patches are joined with their neighbours: what many families have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vtokens.adapters.base import Adapter
from vtokens.core.costs import Encoding
from vtokens.core.picture import Picture, side


class Tiles(Adapter):
    """A family whose feature call takes tiles (tiles, C, H, W); `factor` x `factor` patches of one make a token.

    Scores of the patches that make a token are averaged.
    """

    @property
    def factor(self) -> int:
        """Patches along each side of a token."""
        return 1

    def pictures(self, modality: str, inputs: Mapping[str, Any]) -> list[Picture]:
        high, wide = (-(-patches // self.factor) for patches in self._patches(inputs))
        return [Picture.of([(1, high, wide)], [False])] * len(inputs["pixel_values"])

    def to_tokens(self, modality: str, scores: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        planes = scores.view(-1, 1, *self._patches(inputs))
        return torch.nn.functional.avg_pool2d(planes, self.factor, ceil_mode=True).flatten()

    def encoding(self, modality: str, inputs: Mapping[str, Any]) -> Encoding:
        vision, count, (high, wide) = self.config.vision_config, len(inputs["pixel_values"]), self._patches(inputs)
        rows, depth = high * wide + self.tower.has_cls, len(self.tower.blocks)
        tokens, joined = sum(map(len, self.pictures(modality, inputs))), vision.hidden_size * self.factor**2
        return Encoding(
            vision.hidden_size,
            self.tower_mlp[0],
            gated=self.tower_mlp[1],
            blocks=((rows,) * count,) * depth,
            embedding=(count * high * wide, vision.num_channels * side(vision.patch_size) ** 2, vision.hidden_size),
            projector=tuple((tokens, *shape) for shape in self.projected(joined, self.config.text_config.hidden_size)),
        )

    @property
    def tower_mlp(self) -> tuple[int, bool]:
        """Channels inside the MLP of a tower block, and whether it is gated."""
        return self.config.vision_config.intermediate_size, False

    def projected(self, joined: int, width: int) -> tuple[tuple[int, int], ...]:
        """The matrices that a token of `joined` channels goes through until it has the decoder's `width`."""
        return (joined, width), (width, width)

    def _patches(self, inputs: Mapping[str, Any]) -> tuple[int, int]:
        """Rows and columns of patches in a tile."""
        pixels, patch = inputs["pixel_values"], side(self.config.vision_config.patch_size)
        return pixels.shape[-2] // patch, pixels.shape[-1] // patch
