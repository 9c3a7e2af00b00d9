"""Prompt contrast: what a leading question would draw out of the model is held against what it says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from vtokens.core.facts import Facts
from vtokens.strategies.base import Strategy, check_share, check_weight
from vtokens.strategies.registry import register
from vtokens.strategies.views.logits import Logits, Prompt


@register("lqcd", paper="LQCD: contrast of a leading query with a neutral one")
@dataclass(frozen=True)
class Lqcd(Strategy):
    """Contrasts the answer with that to another prompt about the same pictures.

    The logits become (1 + alpha) l - alpha l', where l' comes from the prompt that `Handle.negative_prompt` gives for
    each call: a leading question, or an instruction that disturbs the model.

    Attributes:
        alpha: weight of the contrast; the paper's could not be read, this is VCD's.
        beta: tokens less than this times as probable as the favourite are ruled out; 0 rules nothing out.
        branch: strategies under which the other prompt runs, as "random(keep=0.1)"; None: the others of the spec.
    """

    once: ClassVar[bool] = True
    alpha: float = 1.0
    beta: float = 0.1
    branch: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight("alpha", self.alpha)
        check_share("beta", self.beta)

    def negative(self, facts: Facts) -> Prompt:
        return Prompt(self.branch)

    def at_logits(self, logits: Logits) -> Tensor:
        return logits.contrast(self.alpha, self.beta)
