"""Qwen3.5 with a mixture of experts: the same tower, and the same kinds of decoder layers."""

from __future__ import annotations

from vtokens.adapters.qwen3_5 import Qwen35
from vtokens.adapters.registry import register_adapter


@register_adapter("qwen3_5_moe")
class Qwen35Moe(Qwen35):
    """The mixture-of-experts checkpoints of Qwen3.5."""

    examples = ("Qwen/Qwen3.5-35B-A3B", "Qwen/Qwen3.5-122B-A10B", "Qwen/Qwen3.5-397B-A17B")
