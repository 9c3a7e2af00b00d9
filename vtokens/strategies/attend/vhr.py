"""VHR: heads whose output depends on the picture are made louder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vtokens.core.facts import Facts
from vtokens.kernels import group_weights, reweigh
from vtokens.strategies.base import Strategy
from vtokens.strategies.checks import check_layer
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.views.heads import Heads

TEXT, VISUAL = range(2)
_HEADS = "vhr.heads"
SLACK = 64 * torch.finfo(torch.float32).eps
"""Of the mean of norms: what rounding makes of them."""


@register(
    "vhr",
    paper="VHR, arXiv:2412.13949",
    venue="ACL 2025",
    evidence="text",
    shown="tests/strategies/test_vhr.py::test_worked_example",
)
@dataclass(frozen=True)
class Vhr(Strategy):
    """Scales up the heads whose output changes most without the picture.

    At the last prompt position the divergence of a head is the distance between its output with and without the
    picture. In each layer that takes part, heads above the median are scaled by `alpha` before the output projection,
    at all positions and in all later steps; heads that diverge far because they are loud on text alone are left out.

    Attributes:
        alpha: the factor; 2 and 3 work in the paper, 4 does not.
        layers: decoder layers that take part; None scales the paper's choice for 32 layers (layer 1 and the last 14),
            and takes those of them that have attention.
        divergence: "single_pass" takes the output without the picture from the same pass, as the attention over text
            keys alone; "two_branch" runs the text by itself beside it, as the paper does, for one more short prefill.
    """

    alpha: float = 2.0
    layers: tuple[int, ...] | None = None
    divergence: Literal["single_pass", "two_branch"] = "single_pass"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.alpha > 0:
            raise ValueError(f"alpha={self.alpha!r} is out of range: a factor above 0 is allowed, 2 is the paper's")

    def check(self, facts: Facts) -> None:
        if self.layers is not None:
            if not self.layers:
                raise ValueError("layers=() names no decoder layer: a tuple of ints such as (1, 18) is allowed")
            for layer in self.layers:
                check_layer("layers", layer, facts.depth)

    def needs(self, facts: Facts) -> Needs:
        return Needs(attend=self._where(facts), text_lane=self.divergence == "two_branch", once=True)

    def _where(self, facts: Facts) -> Sequence[int]:
        if self.alpha == 1:
            return ()
        if self.layers is not None:
            return sorted(set(self.layers))
        late = range(facts.depth - max(1, round(14 / 32 * facts.depth)), facts.depth)
        return sorted({min(1, facts.depth - 1), *late} & {*facts.attending})

    def at_attend(self, heads: Heads) -> None:
        chosen = heads.recall(_HEADS)
        if heads.is_image_prefill:
            new = self._choose(heads)
            # Once chosen, heads stay: keys and values of the layers above were made with them.
            before = heads.visual[:, : heads.past].any(1, keepdim=True)
            chosen = new if chosen is None else torch.where(before, chosen, new)
            heads.remember(_HEADS, chosen)
            heads.log("heads_reinforced", chosen.float().mean(1))
        assert chosen is not None
        heads.amplify(torch.where(chosen, self.alpha, 1.0))

    def _choose(self, heads: Heads) -> Tensor:
        """bool (B, H): the heads to reinforce."""
        outputs, lse = heads.grouped(heads.visual.long(), 2, heads.last)
        merged = heads.at(heads.last).float() if heads.replaced else reweigh(outputs, group_weights(lse))
        merged = merged[:, :, 0]
        text = outputs[TEXT][:, :, 0] if heads.text_lane is None else heads.text_lane
        divergence = torch.linalg.vector_norm(merged - text, dim=-1)
        seen = heads.visual.any(1, keepdim=True)
        return select_heads(divergence, text.square().sum(-1)) & seen


def select_heads(divergence: Tensor, text: Tensor) -> Tensor:
    """The heads above the median divergence, outliers set aside (section 3.2 of the paper).

    Args:
        divergence: float32 (B, H), the distance between a head's outputs with and without the picture.
        text: float32 (B, H), the squared norm of its output without.

    Returns:
        bool (B, H).
    """

    def far(values: Tensor) -> Tensor:
        # Half of the heads at one value and half at another lie at that limit, as heads of two groups that share keys
        # do over a text of one token: rounding must not put them beyond it.
        mean, spread = values.mean(1, keepdim=True), values.std(1, keepdim=True, correction=0)
        return values - mean > spread + SLACK * mean

    divergence = divergence.masked_fill(far(divergence) & far(text), 0.0)
    return divergence > divergence.quantile(0.5, dim=1, keepdim=True)
