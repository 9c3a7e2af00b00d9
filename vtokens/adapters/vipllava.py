"""VipLLaVA: LLaVA 1.5 whose features are those of several tower blocks, joined."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vtokens.adapters.llava import Llava
from vtokens.adapters.registry import register_adapter


@register_adapter("vipllava")
class VipLlava(Llava):
    """VipLLaVA. Scores are those of the deepest block that gives features; the class token is never handed on."""

    examples = ("llava-hf/vip-llava-7b-hf", "llava-hf/vip-llava-13b-hf")

    def keeps_cls(self, inputs: Mapping[str, Any]) -> bool:
        return False
