"""Gemma 4: a tower of padded patches that knows where each stands, windows, inputs of its own for each layer, audio."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from vtokens.adapters.anatomy import Anatomy, Aside, PerLayer, TowerSpec, Visibility
from vtokens.adapters.base import Adapter
from vtokens.adapters.registry import register_adapter
from vtokens.core.costs import Encoding
from vtokens.core.picture import Picture

PADDED = TowerSpec(("vision_tower",), "encoder.layers", "self_attn")


@register_adapter("gemma4")
class Gemma4(Adapter):
    """Gemma 4. A token is a square of patches, whose scores are averaged as their features are; audio is left alone."""

    anatomy = Anatomy(
        {"image": PADDED, "video": PADDED},
        {"image": "image_token_id", "video": "video_token_id"},
        aside={"audio": Aside("audio_token_id", "boa_token_id")},
        visibility=Visibility("mm_token_type_ids", (1, 2), setting="vision", windows=True),
        per_layer=PerLayer("per_layer_inputs", "get_per_layer_inputs", "project_per_layer_inputs"),
    )
    examples = ("google/gemma-4-E2B-it", "google/gemma-4-E4B-it", "google/gemma-4-26B-A4B-it", "google/gemma-4-31B-it")

    def pictures(self, modality: str, inputs: Mapping[str, Any]) -> list[Picture]:
        sizes = self._sizes(modality, inputs).tolist()
        if modality == "image":
            return [Picture.of([(1, high, wide)], [False]) for high, wide in sizes]
        found, first = [], 0
        for frames in inputs["num_frames_per_video"].tolist():
            own = sizes[first : first + frames]
            if any(size != own[0] for size in own):
                raise ValueError(f"frames of one video have {own} rows and columns of tokens: all must have as many")
            found.append(Picture.of([(frames, *own[0])], [False], "video"))
            first += frames
        return found

    def to_tokens(self, modality: str, scores: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        places, factor = self._places(modality, inputs).to(scores.device), self._factor
        real = (places >= 0).all(-1)
        high, wide = self._sizes(modality, inputs).to(scores.device).unbind(-1)
        cells = places.clamp(min=0) // factor
        cell = cells[..., 0] + wide[:, None] * cells[..., 1]
        planes = scores.view(real.shape) * real / factor**2
        tokens = planes.new_zeros(real.shape).scatter_add(1, cell, planes)
        return tokens[torch.arange(real.shape[1], device=scores.device) < (high * wide)[:, None]]

    def encoding(self, modality: str, inputs: Mapping[str, Any]) -> Encoding:
        vision, (count, rows, _) = self.config.vision_config, self._places(modality, inputs).shape
        tokens = sum(map(len, self.pictures(modality, inputs)))
        return Encoding(
            vision.hidden_size,
            vision.intermediate_size,
            gated=True,
            blocks=((rows,) * count,) * vision.num_hidden_layers,
            embedding=(count * rows, 3 * vision.patch_size**2, vision.hidden_size),
            projector=(
                (count * (rows // self._factor**2), rows, vision.hidden_size),  # tokens are means, by a matrix
                (tokens, vision.hidden_size, self.config.text_config.hidden_size),
            ),
        )

    def _changed(
        self, modality: str, inputs: Mapping[str, Any], name: str, change: Callable[[Tensor], Tensor]
    ) -> Tensor:
        pixels = inputs[name].clone()
        real = (self._places(modality, inputs) >= 0).all(-1).to(pixels.device)
        # The frames of a video are one picture.
        frames = [1] * len(pixels) if modality == "image" else inputs["num_frames_per_video"].tolist()
        for part, inside in zip(pixels.split(frames), real.split(frames), strict=True):
            # What pads them stays; the tower itself maps 0..1 to -1..1.
            part[inside] = change(2 * part[inside] - 1) / 2 + 0.5
        return pixels

    @property
    def _factor(self) -> int:
        """Patches along each side of a token."""
        return int(self.config.vision_config.pooling_kernel_size)

    def _places(self, modality: str, inputs: Mapping[str, Any]) -> Tensor:
        """int64 (P, N, 2): column and row of each patch, -1 for padding."""
        places: Tensor = inputs[f"{modality}_position_ids"]
        return places

    def _sizes(self, modality: str, inputs: Mapping[str, Any]) -> Tensor:
        """int64 (P, 2): rows and columns of tokens in each picture or frame."""
        return (self._places(modality, inputs).amax(1).flip(-1) + 1) // self._factor
