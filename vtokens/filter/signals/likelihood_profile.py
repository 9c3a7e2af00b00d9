"""Likelihood, entropy and margin at both ends of a mention, for a classifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from torch import Tensor

from vtokens.filter.signals.base import Over, Signal, Spans
from vtokens.filter.signals.registry import register
from vtokens.filter.trace import Trace

ENDS: Final[tuple[Over, ...]] = ("first", "last")


@register("likelihood_profile", paper="after MetaToken, arXiv:2405.19186")
@dataclass(frozen=True)
class LikelihoodProfile(Signal):
    """`nll`, `entropy` and `margin` of the first and of the last token: "red" and "circle" err apart. No further pass.

    Six numbers, `likelihood_profile.nll_first` and so on.
    """

    def values(self, trace: Trace, spans: Spans) -> dict[str, Tensor]:
        parts = {"nll": -trace.logprob, "entropy": trace.entropy, "margin": -trace.margin}
        return {f"{self.name}.{key}_{end}": spans.over(part, end) for key, part in parts.items() for end in ENDS}
