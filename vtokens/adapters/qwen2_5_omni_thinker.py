"""The thinker of Qwen2.5-Omni: the tower and decoder of Qwen2.5-VL, and audio between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from vtokens.adapters.omni import AUDIO, thinker_positions
from vtokens.adapters.qwen2_5_vl import Qwen25VL
from vtokens.adapters.registry import register_adapter


@register_adapter("qwen2_5_omni_thinker")
class Qwen25OmniThinker(Qwen25VL):
    """The thinker of Qwen2.5-Omni. Its audio is left alone; a video with sound between its frames is one picture."""

    examples = ("Qwen/Qwen2.5-Omni-3B", "Qwen/Qwen2.5-Omni-7B")
    anatomy = replace(Qwen25VL.anatomy, aside=AUDIO)

    def prompt_positions(self, given: Mapping[str, Any], features: Sequence[Mapping[str, Any]]) -> Tensor:
        return thinker_positions(self.multimodal, given, features)
