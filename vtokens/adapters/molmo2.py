"""Molmo 2: tokens pooled by attention over named patches, pictures that see each other both ways, one token for all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vtokens.adapters.anatomy import PIXELS, Anatomy, TowerSpec, Visibility
from vtokens.adapters.base import Adapter
from vtokens.adapters.layers import LayerSpec
from vtokens.adapters.registry import register_adapter
from vtokens.core.costs import Encoding
from vtokens.core.picture import Picture

NAMED = TowerSpec(("vision_tower",), "layers", "self_attn")
_POOLED = {"image": "image_token_pooling", "video": "video_token_pooling"}


@register_adapter("molmo2")
class Molmo2(Adapter):
    """Molmo 2. A token's score is the mean of those of the patches it is pooled from, in the tower's last block.

    The whole of an image and its crops are views of one picture. All visual tokens of a prompt see each other, across
    the text between them; they are added to the embeddings at their places.
    """

    anatomy = Anatomy(
        {"image": NAMED, "video": NAMED},
        {"image": "image_patch_id", "video": "image_patch_id"},
        visibility=Visibility("mm_token_type_ids", (1,), joined=True),
        added=True,
    )
    examples = ("allenai/Molmo2-4B", "allenai/Molmo2-8B", "allenai/Molmo2-O-7B")

    @property
    def specs(self) -> tuple[LayerSpec, ...]:
        return tuple(
            replace(spec, rope=rope) for spec, rope in zip(super().specs, self.language_model.rope_types, strict=True)
        )

    def rotary(self, hidden: Tensor, positions: Tensor, rope: str | None = None) -> tuple[Tensor, Tensor]:
        embed = self.language_model.rotary_emb_unscaled if rope == "unscaled" else self.language_model.rotary_emb
        found: tuple[Tensor, Tensor] = embed(hidden, positions if positions.dim() == 2 else positions[0])
        return found

    def placeholders(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        found, encoded = super().placeholders(inputs), inputs.get("mm_encoder_outputs") or {}
        clips = inputs.get(PIXELS["video"]) is not None or encoded.get("video") is not None
        return {modality: places & ((modality == "video") == clips) for modality, places in found.items()}

    def pictures(self, modality: str, inputs: Mapping[str, Any]) -> list[Picture]:
        if "video_grids" in inputs:
            return [Picture.of([(t, h, w)], [False], modality) for t, h, w in inputs["video_grids"].tolist()]
        grids = [[(1, *grid) for grid in (row[:2], row[2:]) if all(grid)] for row in inputs["image_grids"].tolist()]
        return [Picture.of(views, [False] * len(views)) for views in grids]

    def to_tokens(self, modality: str, scores: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        patches = self._pooled(inputs).to(scores.device)
        real = patches >= 0
        means = (scores[patches.clamp(min=0)] * real).sum(1) / real.sum(1).clamp(min=1)
        return means[real.any(1)]

    def encoding(self, modality: str, inputs: Mapping[str, Any]) -> Encoding:
        vision, joins = self.config.vision_config, self.config.adapter_config
        pixels, (tokens, share) = inputs[self._pixels(inputs)], self._pooled(inputs).shape
        crops, patches = (
            pixels.shape[-3:-1] if pixels.dim() == 3 else (pixels.shape[0] * pixels.shape[1], pixels.shape[2])
        )
        width, inner, features = joins.hidden_size, joins.intermediate_size, len(joins.vision_feature_layer)
        given, keys = joins.hidden_size * features, tokens * share
        return Encoding(
            vision.hidden_size,
            vision.intermediate_size,
            gated=False,
            blocks=((patches,) * crops,) * vision.num_hidden_layers,
            embedding=(crops * patches, vision.num_channels * vision.patch_size**2, vision.hidden_size),
            projector=(
                (tokens, given, width), *((keys, given, width),) * 2, *((tokens, width, share),) * 2,
                (tokens, width, width), *((tokens, width, inner),) * 2, (tokens, inner, joins.text_hidden_size),
            ),
        )  # fmt: skip

    def _changed(
        self, modality: str, inputs: Mapping[str, Any], name: str, change: Callable[[Tensor], Tensor]
    ) -> Tensor:
        pixels, patches = inputs[name], self._pooled(inputs)
        lengths = [len(picture) for picture in self.pictures(modality, inputs)]
        last = [int(part.max()) for part in patches[(patches >= 0).any(1)].split(lengths)]
        rows = pixels.flatten(0, -2)
        ends = [(place // pixels.shape[-2] + 1) * pixels.shape[-2] for place in last]
        parts = rows.split([end - begin for begin, end in zip([0, *ends], ends, strict=False)])
        return torch.cat([change(part) for part in parts]).view_as(pixels)

    def _pixels(self, inputs: Mapping[str, Any]) -> str:
        return PIXELS["video" if PIXELS["video"] in inputs else "image"]

    def _pooled(self, inputs: Mapping[str, Any]) -> Tensor:
        """int64 (tokens, share): the patches of a call that each token is pooled from, below 0 for none."""
        found: Tensor = inputs[_POOLED["video" if "video_grids" in inputs else "image"]]
        return found
