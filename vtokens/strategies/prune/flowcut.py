"""FlowCut: patches are dropped inside the vision tower, by what flows from [CLS] to them and from them on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vtokens.core.budget import Keep, budget
from vtokens.core.facts import Facts
from vtokens.core.ranks import rank
from vtokens.kernels import Merged, attention_colmean
from vtokens.strategies.base import Strategy
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.selection import Selection
from vtokens.strategies.views.patches import Patches
from vtokens.strategies.views.visuals import Visuals

_FLOW = "flow"
_DROPPED = -1.0
"""Noted of what is dropped, and of the class token that its features are copied from; flow is above 0."""


@register(
    "flowcut",
    paper="FlowCut, arXiv:2505.19536",
    venue="NeurIPS 2025",
    evidence="parity",
    shown="tests/strategies/test_flowcut.py::test_the_release_drops_the_same_patches",
)
@dataclass(frozen=True)
class FlowCut(Strategy):
    """Drops patches every second block inside the vision tower, by attention, likeness and length of values.

    In each block s = (a + c) |v|_1: a is the attention of [CLS], c the softmax of v_CLS . v, both means over heads and
    shares of the patches; v is the mean value over heads. Flow is half the flow so far and half of s. With r blocks to
    go and N patches left for K, every second block drops (N - K) / sqrt(r) (1 - (H(a) / log N)^2) of them, and the last
    in front of the block that makes the features all above K. The tower must have a class token.

    Attributes:
        keep: share or count per picture; inside the tower, of each crop.
        positions: "original" or "compact" numbers, as for a `ScorePruner`.
    """

    keep: Keep = 0.25
    positions: Literal["original", "compact"] = "original"

    def check(self, facts: Facts) -> None:
        if not facts.has_cls or facts.merge_blocks is None or facts.merge_blocks < 2:
            why = "has no class token" if not facts.has_cls else "has no place inside for dropping them"
            raise ValueError(
                "'flowcut' drops patches inside the vision tower by what its class token attends to, and the tower of "
                f"{facts.family!r} {why}: LLaVA families with a CLIP tower are supported. 'hiprune' and 'visionzip' "
                "prune behind any tower"
            )

    def prepare(self, facts: Facts) -> int:
        """The block that makes the features."""
        return (facts.merge_blocks or 1) - 1

    def needs(self, facts: Facts) -> Needs:
        return Needs(encode=range(self.prepare(facts)), once=True, compact=self.positions == "compact")

    def at_encode(self, patches: Patches) -> Merged | None:
        count, left = patches.patches, patches.prepared - 1 - patches.block
        target = min(count, self.keep) if isinstance(self.keep, int) else budget(count, self.keep)
        real = patches.valid.clone()
        real[:, : patches.protect] = False
        number = real.sum(1, keepdim=True)
        attention, score = flow(patches, real)
        before = patches.recall(_FLOW)
        score = score if before is None else torch.where(number > target, (before + score) / 2, before)
        score = score.masked_fill(~real, _DROPPED)
        if left % 2:
            patches.note(_FLOW, score)
            return None
        share = attention / attention.sum(1, keepdim=True)
        entropy = -(share * share.clamp(min=1e-30).log()).sum(1, keepdim=True)
        ratio = entropy / number.clamp(min=2).log()
        drop = ((number - target) / max(1, left) ** 0.5 * (1 - ratio.square())).round() if left else number - target
        stay = torch.minimum(number, (number - drop).clamp(min=target))
        keep = real & (rank(-score) < stay)
        patches.note(_FLOW, score.masked_fill(~keep, _DROPPED))
        keep[:, : patches.protect] = True
        # What is dropped goes along with the class token, which stays as it is and counts as before.
        row = torch.where(keep | ~patches.valid, torch.arange(keep.shape[1], device=keep.device), 0)
        return Merged(patches.hidden, patches.size * keep, patches.valid & keep, row)

    def at_prompt(self, visuals: Visuals) -> Selection:
        scores = visuals.encoded(_FLOW)
        found, pictures = visuals.top(scores, self.keep), visuals.layout.pictures
        whole = all(picture.tokens == count for picture, count in zip(pictures, visuals.counts, strict=True))
        if whole and all(len(picture.grids) == 1 for picture in pictures):
            return found
        # Of crops, what stayed may be cut off with their padding, and other strategies may have dropped it: then fewer
        # stay, which only the device knows.
        return Selection(found.keep & (scores > _DROPPED))


def flow(patches: Patches, real: Tensor) -> tuple[Tensor, Tensor]:
    """float32 (B, N) each: what [CLS] gives the patches that are `real`, mean over heads, and the flow of a block."""
    query, value = patches.query, patches.value
    if query is None or value is None:
        raise RuntimeError("there is no attention behind a tower")
    ask, values = query.detach()[:, :, :1], value.detach()
    attention = attention_colmean(ask, patches.key.detach(), patches.scaling, valid=patches.valid)
    alike = attention_colmean(values[:, :, :1], values, 1.0, valid=patches.valid)
    shares = [part.masked_fill(~real, 0) for part in (attention, alike)]
    total = sum(part / part.sum(1, keepdim=True) for part in shares)
    return shares[0], total * values.float().mean(1).abs().sum(2)
