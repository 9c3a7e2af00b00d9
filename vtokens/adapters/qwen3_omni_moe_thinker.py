"""The thinker of Qwen3-Omni: the tower of Qwen3-VL, its decoder with experts, and audio between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from vtokens.adapters.omni import AUDIO, thinker_positions
from vtokens.adapters.qwen3_vl import Qwen3VL
from vtokens.adapters.registry import register_adapter


@register_adapter("qwen3_omni_moe_thinker")
class Qwen3OmniMoeThinker(Qwen3VL):
    """The thinker of Qwen3-Omni. Its audio is left alone; a video with sound between its frames is one picture."""

    examples = ("Qwen/Qwen3-Omni-30B-A3B-Instruct", "Qwen/Qwen3-Omni-30B-A3B-Thinking")
    anatomy = replace(Qwen3VL.anatomy, aside=AUDIO)

    def prompt_positions(self, given: Mapping[str, Any], features: Sequence[Mapping[str, Any]]) -> Tensor:
        return thinker_positions(self.multimodal, given, features)
