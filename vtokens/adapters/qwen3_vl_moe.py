"""Qwen3-VL with experts: the tower and the deepstack of Qwen3-VL, and a decoder whose MLPs are mixtures."""

from __future__ import annotations

from vtokens.adapters.qwen3_vl import Qwen3VL
from vtokens.adapters.registry import register_adapter


@register_adapter("qwen3_vl_moe")
class Qwen3VLMoe(Qwen3VL):
    """Qwen3-VL with experts."""

    examples = ("Qwen/Qwen3-VL-30B-A3B-Instruct", "Qwen/Qwen3-VL-235B-A22B-Instruct")
