"""Whether a mention is the first of its kind and name: repeated mentions are unsupported less often."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vtokens.filter.signals.base import Signal, Spans
from vtokens.filter.signals.registry import register
from vtokens.filter.trace.trace import Trace


@register(
    "repetition",
    paper="a confounder, as HaloProbe says",
    says=("it is named for the first time", "it was named before"),
)
@dataclass(frozen=True)
class Repetition(Signal):
    """1 for the first mention of its kind and name, 0 for a repeat. Reads neither picture nor model."""

    by_token: ClassVar[bool] = True

    def values(self, trace: Trace, spans: Spans) -> dict[str, Tensor]:
        new = [not mention.repeat for mention in spans.mentions]
        return {self.name: torch.tensor(new, dtype=torch.float32, device=trace.ids.device)}
