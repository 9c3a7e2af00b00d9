"""FastVLM: pictures that timm's FastViTHD, a tower of convolutions, makes a small grid of; Qwen2 decoder."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from vtokens.adapters.registry import register_adapter
from vtokens.adapters.timm import Timm
from vtokens.core.costs import Encoding
from vtokens.core.picture import Picture


@register_adapter("fast_vlm")
class FastVlm(Timm):
    """FastVLM: a token for each cell of what its tower convolves a picture to."""

    examples = ("KamilaMila/FastVLM-0.5B", "KamilaMila/FastVLM-7B")

    def pictures(self, modality: str, inputs: Mapping[str, Any]) -> list[Picture]:
        shape = inputs["pixel_values"].shape
        stride = self.timm.feature_info[-1]["reduction"]
        return [Picture.of([(1, -(-shape[-2] // stride), -(-shape[-1] // stride))], [False])] * shape[0]

    def encoding(self, modality: str, inputs: Mapping[str, Any]) -> Encoding:
        rows, width = sum(map(len, self.pictures(modality, inputs))), self.config.text_config.hidden_size
        return Encoding(
            width=0,
            inner=0,
            gated=False,
            blocks=(),
            embedding=(0, 0, 0),
            projector=((rows, self.config.vision_config.hidden_size, width), (rows, width, width)),
            counted=_counted(self.tower.module, inputs["pixel_values"].shape),
        )


@torch.no_grad()
def _counted(tower: nn.Module, shape: torch.Size) -> int:
    """Operations of a tower on pixels of a shape, which torch counts without computing them."""
    state = {name: part.to("meta") for name, part in chain(tower.named_parameters(), tower.named_buffers())}
    dtype = next(part.dtype for part in state.values() if part.is_floating_point())
    with FlopCounterMode(display=False) as counter:
        functional_call(tower, state, (torch.empty(shape, dtype=dtype, device="meta"),))
    return int(counter.get_total_flops())
