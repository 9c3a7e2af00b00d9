"""Towers that timm brings: they attend by themselves, so that nothing inside of them can be looked at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vtokens.adapters.anatomy import Anatomy, TowerSpec
from vtokens.adapters.base import Adapter

TIMM = TowerSpec(("vision_tower",))


class Timm(Adapter):
    """A family with a tower of timm's: strategies look at features, or at the decoder."""

    anatomy = Anatomy({"image": TIMM})

    @property
    def timm(self) -> Any:
        """The tower inside of transformers' wrapper."""
        return self.tower.module.timm_model

    def to_tokens(self, modality: str, scores: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        raise NotImplementedError("a tower of timm's gives no scores")
