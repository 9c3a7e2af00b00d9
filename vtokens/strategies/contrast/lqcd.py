"""Prompt contrast: what a leading question would draw out of the model is held against what it says."""

from __future__ import annotations

from dataclasses import dataclass

from vtokens.core.facts import Facts
from vtokens.strategies.contrast.weighted import Weighted
from vtokens.strategies.registry import register
from vtokens.strategies.views.logits import Prompt


@register(
    "lqcd",
    paper="LQCD (leading query contrastive decoding), arXiv:2408.11261",
    evidence="text",
    shown="tests/strategies/test_contrast.py::test_the_formula_by_hand",
)
@dataclass(frozen=True)
class Lqcd(Weighted):
    """Contrasts the answer with that to another prompt about the same pictures.

    The logits become (1 + alpha) l - alpha l', where l' comes from the prompt that `Handle.negative_prompt` gives for
    each call: a leading question, or an instruction that disturbs the model.

    Attributes:
        alpha: weight of the contrast; the paper's was not found, this is VCD's.
        beta: tokens less than this times as probable as the favourite are ruled out; 0 rules nothing out. VCD's too.
        branch: strategies under which the other prompt runs, as "random(keep=0.1)"; None: the others of the spec.
    """

    branch: str | None = None

    def negative(self, facts: Facts) -> Prompt:
        return Prompt(self.branch)
