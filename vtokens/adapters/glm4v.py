"""GLM-4.1V: Qwen2-VL's order of patches and positions, with image tokens in place of video tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from vtokens.adapters.qwen2_vl import VISUAL, Qwen2VL
from vtokens.adapters.registry import register_adapter
from vtokens.core.costs import Encoding

_VIDEO = 2
"""The kind of a video's positions in `mm_token_type_ids`."""


@register_adapter("glm4v")
class Glm4v(Qwen2VL):
    """GLM-4.1V. A video's frames stand apart, with their times as text between; they are one picture all the same."""

    # It places what it embeds by the shape of the whole grid, so that no token can be left out of that.
    anatomy = replace(
        Qwen2VL.anatomy, towers={name: replace(VISUAL, fewer=frozenset(("resize",))) for name in ("image", "video")}
    )
    mixes_copies = True
    examples: ClassVar[tuple[str, ...]] = ("zai-org/GLM-4.1V-9B-Thinking", "zai-org/GLM-4.6V-Flash")

    def placeholders(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        ids, kinds = inputs.get("input_ids"), inputs.get("mm_token_type_ids")
        if ids is None:
            return super().placeholders(inputs)
        image, length = ids == self.config.image_token_id, ids.shape[1]
        if kinds is None:
            return {"image": image, "video": image & False}
        # Of a later turn, kinds may tell of the new positions alone, or of all that went before too.
        kinds = torch.nn.functional.pad(kinds, (length - kinds.shape[1], 0))
        video = kinds.to(ids.device) == _VIDEO
        return {"image": image & ~video, "video": image & video}

    @property
    def tower_widths(self) -> tuple[int, int, bool]:
        vision = self.config.vision_config
        return vision.hidden_size, vision.out_hidden_size, True

    def encoding(self, modality: str, inputs: Mapping[str, Any]) -> Encoding:
        encoding, vision = super().encoding(modality, inputs), self.config.vision_config
        (merged, joined, _), width, inner = encoding.projector[0], vision.out_hidden_size, vision.intermediate_size
        merger = ((merged, width, width), (merged, width, inner), (merged, width, inner), (merged, inner, width))
        return replace(encoding, projector=((merged, joined, width), *merger))
