"""Gemma 3: a SigLIP tower whose features are pooled, images that see themselves both ways, sliding layers."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer

from vtokens.adapters.anatomy import Anatomy, TowerSpec, Visibility
from vtokens.adapters.base import Adapter
from vtokens.adapters.registry import register_adapter
from vtokens.adapters.tiles_in_text import crops_together, tile_starts
from vtokens.core.costs import Encoding
from vtokens.core.picture import Picture

_CROPPED = 2
"""An image that is cropped is more pictures than this: there are two crops at least."""
_WORDS = (" and here are some crops to help you see better ", " ")
"""What the processor writes between an image and its first crop, and between crops."""
POOLED = TowerSpec(("vision_tower.vision_model", "vision_tower"), "encoder.layers", "self_attn")


@register_adapter("gemma3")
class Gemma3(Adapter):
    """Gemma 3. An image and its crops (pan and scan) are views of one picture; scores are pooled as features are.

    Only the words that the processor writes between tell crops from other images, and no config has their tokens: the
    checkpoint's tokenizer is asked, once, where a prompt shows three pictures or more.
    """

    anatomy = Anatomy({"image": POOLED}, visibility=Visibility("token_type_ids", (1,)))
    examples = ("google/gemma-3-4b-it", "google/gemma-3-12b-it", "google/gemma-3-27b-it")

    def stretches(self, placeholders: Tensor, inputs: Mapping[str, Any]) -> Tensor | None:
        ids = inputs.get("input_ids")
        if ids is None or int(tile_starts(placeholders).sum(1).max()) <= _CROPPED:
            return None
        return None if self._between is None else crops_together(placeholders, ids, *self._between)

    @cached_property
    def _between(self) -> tuple[list[int], list[int]] | None:
        """The tokens between an image and its first crop, and between crops; None if no tokenizer tells them."""
        config, name = self.config, self.model.name_or_path
        try:
            tokenizer: Any = AutoTokenizer.from_pretrained(name, local_files_only=True) if name else None
        except (OSError, ValueError):
            tokenizer = None
        if tokenizer is None:
            warnings.warn(
                f"which pictures of a prompt are crops of one is not known, as {name!r} has no tokenizer on this "
                "machine: each has a budget of its own. It matters with do_pan_and_scan=True alone",
                stacklevel=2,
            )
            return None
        begin, end = (tokenizer.convert_ids_to_tokens(t) for t in (config.boi_token_id, config.eoi_token_id))
        first, later = (
            tokenizer(f"{end}\n\n{words}\n\n{begin}", add_special_tokens=False)["input_ids"] for words in _WORDS
        )
        return first, later

    def pictures(self, modality: str, inputs: Mapping[str, Any]) -> list[Picture]:
        side = self.multimodal.multi_modal_projector.tokens_per_side
        return [Picture.of([(1, side, side)], [False])] * len(inputs["pixel_values"])

    def to_tokens(self, modality: str, scores: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        projector = self.multimodal.multi_modal_projector
        planes = scores.view(-1, 1, projector.patches_per_image, projector.patches_per_image)
        return torch.nn.functional.avg_pool2d(planes, projector.kernel_size).flatten()

    def encoding(self, modality: str, inputs: Mapping[str, Any]) -> Encoding:
        vision, count = self.config.vision_config, len(inputs["pixel_values"])
        patches = (vision.image_size // vision.patch_size) ** 2
        return Encoding(
            vision.hidden_size,
            vision.intermediate_size,
            gated=False,
            blocks=((patches,) * count,) * vision.num_hidden_layers,
            embedding=(count * patches, vision.num_channels * vision.patch_size**2, vision.hidden_size),
            projector=(
                (count * self.config.mm_tokens_per_image, vision.hidden_size, self.config.text_config.hidden_size),
            ),
        )
