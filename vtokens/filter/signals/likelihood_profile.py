"""Likelihood, entropy and margin at both ends of a mention, for a classifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor

from vtokens.filter.signals.base import Over, Signal, Spans
from vtokens.filter.signals.registry import register
from vtokens.filter.trace.trace import Trace

PARTS: Final = ("nll", "entropy", "margin")
ENDS: Final[tuple[Over, ...]] = ("first", "last")


@register(
    "likelihood_profile",
    paper="after MetaToken, arXiv:2405.19186",
    says=("its first or last token was not expected", "its first and last token were expected"),
)
@dataclass(frozen=True)
class LikelihoodProfile(Signal):
    """`nll`, `entropy` and `margin` of the first and of the last token: "red" and "circle" err apart. No further pass.

    Six numbers, `likelihood_profile.nll_first` and so on.
    """

    by_token: ClassVar[bool] = True

    def values(self, trace: Trace, spans: Spans) -> dict[str, Tensor]:
        parts = torch.stack([-trace.logprob, trace.entropy, -trace.margin])
        found = {end: spans.over(parts, end) for end in ENDS}
        return {f"{self.name}.{key}_{end}": found[end][i] for i, key in enumerate(PARTS) for end in ENDS}
