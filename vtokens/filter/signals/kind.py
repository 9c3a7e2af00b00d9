"""The kind of a mention, so that a calibrator may tell counts from objects: no evidence by itself"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vtokens.filter.mentions.base import KINDS
from vtokens.filter.signals.base import Signal, Spans
from vtokens.filter.signals.registry import register
from vtokens.filter.trace.trace import Trace


@register(
    "kind",
    paper="ours; models are wrong about counts and relations more often than about objects",
    says=("of mentions of its kind more are wrong", "of mentions of its kind fewer are wrong"),
)
@dataclass(frozen=True)
class Kind(Signal):
    """One number a kind ("kind.object", "kind.attribute", ...): 1 for mentions of that kind, 0 for others."""

    by_token: ClassVar[bool] = True

    def values(self, trace: Trace, spans: Spans) -> dict[str, Tensor]:
        said = [getattr(mention, "kind", "object") for mention in spans.mentions]
        rows = torch.tensor([[float(one == kind) for one in said] for kind in KINDS], device=trace.ids.device)
        return {f"{self.name}.{kind}": row for kind, row in zip(KINDS, rows, strict=True)}
