"""PaliGemma 1 and 2: a SigLIP tower, one token a patch, and a prompt that sees itself both ways (prefix LM)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from vtokens.adapters.anatomy import Anatomy, Visibility
from vtokens.adapters.gemma3 import POOLED
from vtokens.adapters.registry import register_adapter
from vtokens.adapters.tiles import Tiles


@register_adapter("paligemma")
class PaliGemma(Tiles):
    """PaliGemma. Its pictures stand before everything else; all text of a prompt sees them, and they see the text."""

    anatomy = Anatomy({"image": POOLED}, visibility=Visibility("token_type_ids", (0,), prefix=True, text=1))
    examples = ("google/paligemma-3b-mix-224", "google/paligemma2-3b-mix-224", "google/paligemma2-10b-mix-448")

    def prompt_positions(self, given: Mapping[str, Any], features: Sequence[Mapping[str, Any]]) -> Tensor:
        return super().prompt_positions(given, features) + 1  # they count from 1

    def projected(self, joined: int, width: int) -> tuple[tuple[int, int], ...]:
        return ((joined, self.config.vision_config.projection_dim),)
