"""ONLY: the answer is held against what the heads of one early layer say that spread over text."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vtokens.core.facts import Facts
from vtokens.strategies.base import Strategy
from vtokens.strategies.checks import check_layer, check_share, check_weight
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.views.heads import Heads
from vtokens.strategies.views.logits import Logits

TINY = 1e-6
"""What the release adds to shares before their logarithm."""
ENTERING, OWN = 0.2, 0.5
"""How much the release takes of the states that entered the last layer, and of the answer's own logits."""


@register(
    "only",
    paper="ONLY (One-Layer Intervention), arXiv:2507.00898",
    venue="ICCV 2025",
    evidence="text",
    shown="tests/strategies/test_only.py::test_answers_are_those_of_the_formula",
)
@dataclass(frozen=True)
class Only(Strategy):
    """Compares the answer with what text-heavy heads of one layer would say by themselves, in the same pass.

    In one layer, attention to text and to visual tokens loses what is above its mean + standard deviation. A head whose
    entropy over text, divided by that over visual tokens, is below the mean of all heads is silenced. What the others
    put out goes past all layers to the last one's MLP, with a fifth of the states that entered that layer, which gives
    logits; those and half of the answer's own are l'.
    With d the sum of |p - p'|, logits become l + up l' where d is below `gamma`, else (1 + down) l - down l'.

    Attributes:
        up: weight of l' where both agree.
        down: weight of the contrast where they do not.
        beta: tokens less than this times as probable as the favourite are ruled out; 0 rules nothing out.
        gamma: the distance, from 0 to 2, below which both agree; the release runs 0.25 for captions, 0.6 on POPE.
        layer: the decoder layer whose heads are read; None takes the first one with attention, which is layer 0 in
            most.
    """

    up: float = 3.0
    down: float = 1.0
    beta: float = 0.1
    gamma: float = 0.25
    layer: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight("up", self.up)
        check_weight("down", self.down)
        check_share("beta", self.beta)
        check_weight("gamma", self.gamma)

    def prepare(self, facts: Facts) -> int:
        """The layer whose heads are read."""
        return facts.nearest_attending(0) if self.layer is None else self.layer

    def check(self, facts: Facts) -> None:
        if self.layer is not None:
            check_layer("layer", self.layer, facts.depth)

    def needs(self, facts: Facts) -> Needs:
        layer = self.prepare(facts)
        return Needs(
            attend=(layer,), early=(layer, facts.depth - 1), shortcut=(layer,), norm=True, minds_sizes=True, once=True
        )

    def at_attend(self, heads: Heads) -> None:
        if heads.asked is None:
            return
        visual = heads.visual
        valid = torch.ones_like(visual) if heads.valid is None else heads.valid
        # The first key gathers what looks at nothing: it stays, and has no say in the entropy.
        text = valid & ~visual & (valid.cumsum(1) > 1)
        until, key = heads.until_key(heads.asked), torch.arange(visual.shape[1], device=visual.device)
        done = 0

        def silenced(shares: Tensor) -> Tensor:
            nonlocal done  # shares come some rows at a time, in order
            seen = key <= until[:, done : done + shares.shape[2], None]
            done += shares.shape[2]
            shares, of_text = trimmed(shares, (seen & text[:, None])[:, None])
            shares, of_picture = trimmed(shares, (seen & (valid & visual)[:, None])[:, None])
            ratio = of_text.nan_to_num(nan=0.0) / of_picture.nan_to_num(nan=torch.inf)
            return shares.masked_fill((ratio < ratio.mean(1, keepdim=True))[..., None], 0)

        heads.shortcut(heads.rescaled(heads.asked, change=silenced))

    def at_logits(self, logits: Logits) -> Tensor:
        sent, own = logits.shortcut(logits.prepared, ENTERING), logits.positive
        if sent is None:
            return own
        other = sent + OWN * own
        distance = (own.softmax(-1) - other.softmax(-1)).abs().sum(-1, keepdim=True)
        agree = distance < self.gamma
        logits.log("agreeing", agree.float().mean((1, 2)))
        made = torch.where(agree, own + self.up * other, (1 + self.down) * own - self.down * other)
        # What an earlier strategy ruled out stays so.
        return logits.cut(made.masked_fill(own.isneginf(), -torch.inf), self.beta)


def trimmed(shares: Tensor, kind: Tensor) -> tuple[Tensor, Tensor]:
    """Attention without what stands out among keys of one kind, and how far the rest of it spreads over them.

    Args:
        shares: float32 (B, H, R, K).
        kind: bool (B, 1, R, K), the keys.

    Returns:
        (B, H, R, K), 0 where a share of the kind is above its mean + standard deviation; and the entropy of what is
        left of the kind, brought to a sum of 1, (B, H, R), NaN where nothing is.
    """
    count = kind.sum(-1, keepdim=True).clamp(min=1)
    mean = (shares * kind).sum(-1, keepdim=True) / count
    spread = ((shares - mean).square() * kind).sum(-1, keepdim=True) / (count - 1).clamp(min=1)
    shares = shares.masked_fill(kind & (shares > mean + spread.sqrt()), 0)
    rest = shares * kind
    rest = rest / rest.sum(-1, keepdim=True)
    return shares, -(rest * (rest + TINY).log()).sum(-1)
