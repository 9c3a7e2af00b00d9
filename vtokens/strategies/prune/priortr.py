"""PriorTR: what the question makes more of than a token that cannot know the question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from vtokens.core.budget import Keep
from vtokens.core.facts import Facts
from vtokens.kernels import TIE
from vtokens.strategies.bases import ScorePruner
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.signals import Attention, QueryRows
from vtokens.strategies.views.visuals import Visuals

_LEAST = 1e-10
"""What is added to shares of attention, as in the released code."""


@register(
    "priortr",
    paper="PriorTR, github.com/CodeChildCZJ/PriorTR",
    venue="ECCV 2026",
    evidence="parity",
    shown="tests/strategies/test_priortr.py::test_scores_are_those_of_the_release",
)
@dataclass(frozen=True)
class PriorTR(ScorePruner):
    """Keeps the visual tokens that the question attends to more than the first token behind the picture does.

    Under a causal mask that token sees the picture and not the question, so its attention is a prior Q; the question's
    is P. Both are means over heads, shared out over the picture, and a token's score is P log(P / Q).

    Attributes:
        keep: share or count per picture.
        layer: 1 to depth - 1; attention is that of the layer before.
        query: P is the mean over all text from the picture on ("question", as for LLaVA-1.5), or the last position's
            ("last", as for LLaVA-NeXT).
    """

    stage = "layer"
    keep: Keep = 1 / 3
    layer: int = 3
    query: Literal["question", "last"] = "question"

    @property
    def _rows(self) -> QueryRows:
        return "text" if self.query == "question" else "last"

    def needs(self, facts: Facts) -> Needs:
        return Needs(signals=(Attention(self.layer - 1, "after"), Attention(self.layer - 1, self._rows)))

    def score(self, visuals: Visuals) -> Tensor:
        prior, task = (self._share(visuals, rows) for rows in ("after", self._rows))
        gain = ((task + _LEAST) / (prior + _LEAST)).log()
        # Where nothing stands behind the picture both are one row, and what rounding makes of that is no preference.
        return task * gain.masked_fill(gain.abs() < TIE, 0)

    def _share(self, visuals: Visuals, rows: QueryRows) -> Tensor:
        found = visuals.attention(self.layer - 1, rows).masked_fill(~visuals.valid, 0)
        return found / (found.sum(1, keepdim=True) + _LEAST)
