"""Ovis2: square tiles, each token a blend of a visual vocabulary, with indicator tokens between tiles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vtokens.adapters.anatomy import Anatomy, TowerSpec
from vtokens.adapters.registry import register_adapter
from vtokens.adapters.tiles import Tiles

AIM = TowerSpec(("vision_tower",), "transformer.encoder.layers", "attention")


@register_adapter("ovis2")
class Ovis2(Tiles):
    """Ovis2. The thumbnail of an image and its tiles are views of one picture; indicators between are never dropped."""

    anatomy = Anatomy({"image": AIM}, indicators="visual_indicator_token_ids")
    examples = ("thisisiron/Ovis2-1B-hf", "thisisiron/Ovis2-2B-hf")

    @property
    def factor(self) -> int:
        return int(self.config.vision_config.hidden_stride)

    @property
    def tower_mlp(self) -> tuple[int, bool]:
        return self.config.vision_config.intermediate_size, True

    def projected(self, joined: int, width: int) -> tuple[tuple[int, int], ...]:
        words = self.config.vision_config.vocab_size
        return (joined, words - self.config.vision_config.num_visual_indicator_tokens), (words, width)

    def stretches(self, placeholders: Tensor, inputs: Mapping[str, Any]) -> Tensor | None:
        ids = inputs.get("input_ids")
        if ids is None:
            return None
        # The first one begins an image, so that images that follow each other stay apart.
        between = torch.tensor([*self.config.visual_indicator_token_ids[1:]], device=ids.device)
        return placeholders | torch.isin(ids, between)
