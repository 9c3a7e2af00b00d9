"""AdaVBoost: the more a token risks to be made up, the more the next one looks at the picture."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vtokens.core.facts import Facts
from vtokens.strategies.base import Strategy
from vtokens.strategies.checks import check_layers, check_share, check_weight
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.views.heads import Heads
from vtokens.strategies.views.logits import Logits

_TEXT, _RISK, _GROUNDING = "adavboost.text", "adavboost.risk", "adavboost.grounding"


@register(
    "adavboost",
    paper="AdaVBoost (SAVAA), arXiv:2602.13600",
    venue="ICML 2026",
    evidence="text",
    shown="tests/strategies/test_adavboost.py::test_generation_is_that_of_edited_scores",
)
@dataclass(frozen=True)
class AdaVBoost(Strategy):
    """Multiplies what a generated token thinks of the picture by a factor that grows with the risk of the one before.

    The risk is visual grounding entropy, `weight` H / log V + (1 - `weight`) (1 - G), over `scale` and at most 1: H is
    the entropy of the prediction, V the vocabulary, and G the most that any visual token predicts of the favourite,
    where the output layer is shown its last state. Scores of visual tokens are multiplied by 1 + (`visual` - 1) risk,
    and those of the prompt's text by 1 / `text`. The first token is not boosted.

    Attributes:
        visual: the factor at full risk; the release runs 1.1 on LLaVA-NeXT, 1.3 on Qwen3-VL and InternVL3.5.
        text: what scores of the prompt's text are divided by; 1.7, 1.3 and 1.6 there.
        weight: of entropy against grounding; 0.5, 0.6 and 0.8 there.
        scale: the grounding entropy that is full risk; 0.5, 0.6 and 0.7 there.
        layers: decoder layers that take part; None takes 0 to 14 of 32, as on LLaVA-NeXT there; others begin at 4.
    """

    visual: float = 1.1
    text: float = 1.7
    weight: float = 0.5
    scale: float = 0.5
    layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight("visual", self.visual, least=1.0)
        check_weight("text", self.text, least=1.0)
        check_share("weight", self.weight)
        if not self.scale > 0:
            raise ValueError(f"scale={self.scale!r} is out of range: a number above 0 is allowed")

    def prepare(self, facts: Facts) -> tuple[int, ...]:
        """The decoder layers that take part, ascending."""
        return facts.scaled(0, 14) if self.layers is None else check_layers("layers", self.layers, facts.depth)

    def needs(self, facts: Facts) -> Needs:
        return Needs(attend=self.prepare(facts), weighs=True, minds_sizes=True, grounds=True, once=True)

    def at_attend(self, heads: Heads) -> None:
        if heads.layout is not None:
            if heads.writing.index.shape[1] > 1:
                raise ValueError(
                    "adavboost boosts a token by the risk of the one before, which is not known while several are fed: "
                    "an answer cannot be fed along with its prompt; generate it, or use 'pai', whose factor is fixed"
                )
            heads.mark(_TEXT, heads.layout.words.long(), fill=0)
            if heads.layer == heads.prepared[0]:
                heads.remember(_GROUNDING, torch.zeros(len(heads.query), 1, device=heads.query.device))
            heads.remember(_RISK, torch.zeros(len(heads.query), device=heads.query.device))
        risk = heads.recall(_RISK)
        if heads.layout is not None or risk is None or heads.query.shape[2] > 1:
            return  # a prompt
        visual, factor = heads.visual, (1 + (self.visual - 1) * risk)[:, None]
        prompt = (heads.marks(_TEXT) > 0) & visual.any(1, keepdim=True)
        text = torch.where(prompt & (risk > 0)[:, None], 1 / self.text, 1.0)
        heads.rescale(heads.writing, factor=torch.where(visual, factor, text))

    def at_logits(self, logits: Logits) -> Tensor:
        last = self._row(logits)
        if last is None:
            return logits.positive
        share = last.softmax(-1)
        doubt = torch.special.entr(share).sum(-1) / math.log(share.shape[1])
        grounded = logits.recall(_GROUNDING, logits.prepared[0]) if logits.grounding is None else logits.grounding
        assert grounded is not None
        missing = 1 - grounded.expand(-1, last.shape[1]).gather(1, last.argmax(-1, keepdim=True))[:, 0]
        risk = ((self.weight * doubt + (1 - self.weight) * missing) / self.scale).clamp(0, 1)
        logits.log("risk", risk)
        for layer in logits.prepared:
            logits.remember(_RISK, layer, risk)
        if logits.grounding is not None:
            logits.remember(_GROUNDING, logits.prepared[0], logits.grounding)
        return logits.positive

    def silent(self) -> None:
        """Nothing: the risk that boosts a token is made of the logits of the one before."""
        return None

    def _row(self, logits: Logits) -> Tensor | None:
        """float32 (B, V): the logits of the token that is written next; None where nothing is cached for it."""
        if logits.step is None or logits.recall(_RISK, logits.prepared[0]) is None:
            return None
        rows = logits.positive
        if logits.grounding is None and rows.shape[1] > 1:
            raise ValueError(
                "adavboost boosts a token by the risk of the one before, and several were fed at once: leave "
                "speculative decoding out, and give logits_to_keep=1 with the prompt of another turn"
            )
        # Positions of the prompt count as those of the first token, which is the last of them.
        at = (logits.step <= 1).sum(1).clamp(min=1).expand(len(rows))[:, None, None] - 1
        return rows[:, -1] if rows.shape[1] == 1 else rows.gather(1, at.expand(-1, -1, rows.shape[2]))[:, 0]
