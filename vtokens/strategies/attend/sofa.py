"""SoFA: pictures see those that come after them, a little, so that their order says less."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vtokens.core.columns import columns_of, last_column
from vtokens.core.facts import Facts
from vtokens.core.layout import Layout
from vtokens.core.on_device import on_device
from vtokens.strategies.base import Strategy
from vtokens.strategies.checks import check_layers, check_share
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.views.heads import Heads, Rows


@register(
    "sofa",
    paper="SoFA (Position Bias of Multi-image VLMs), arXiv:2503.13792",
    venue="CVPR 2025",
    evidence="text",
    shown="tests/strategies/test_sofa.py::test_generation_is_that_of_mixed_masks",
)
@dataclass(frozen=True)
class Sofa(Strategy):
    """Lets the tokens of a picture look at pictures behind it in the prompt, with a share of what is ahead of them.

    The mask between pictures is (1 - `sigma`) times the causal one and `sigma` times one that sees both ways: a
    visual token gives keys of later pictures exp(score) times `sigma`. Inside a picture, and for text, attention stays
    as it is. A prompt with one picture is left alone.

    Attributes:
        sigma: 0 is causal attention, 1 sees all pictures alike.
        layers: decoder layers in which they do; None is every second one, from the first.
    """

    sigma: float = 0.5
    layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("sigma", self.sigma)

    def needs(self, facts: Facts) -> Needs:
        if self.sigma == 0:
            return Needs(once=True)
        where = facts.attending[::2] if self.layers is None else check_layers("layers", self.layers, facts.depth)
        return Needs(attend=where, weighs=True, minds_sizes=True, once=True)

    def at_attend(self, heads: Heads) -> None:
        rows = None if heads.layout is None else ahead_of_others(heads.layout)
        if heads.layout is None or rows is None:
            return
        layout, own = heads.layout, heads.until_key(rows)
        picture = layout.image.masked_fill(~layout.visual, -1)
        mine, others = picture.gather(1, rows.index), torch.nn.functional.pad(picture, (heads.past, 0), value=-1)
        key, done = torch.arange(others.shape[1], device=own.device), 0

        def mixed(shares: Tensor) -> Tensor:
            nonlocal done  # shares come some rows at a time, in order
            part = slice(done, done + shares.shape[2])
            done = part.stop
            later = others[:, None] > mine[:, part, None]
            weight = torch.where(key <= own[:, part, None], 1.0, self.sigma * later)
            shares = shares * weight[:, None]
            return shares / shares.sum(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)

        end = heads.past + last_column(layout.visual).clamp(min=0)
        heads.rescale(rows, change=mixed, until=torch.maximum(own, end.expand_as(own)))


def ahead_of_others(layout: Layout) -> Rows | None:
    """The visual tokens behind which their prompt has another picture; None if it is the only one in all of them."""
    last, counts = [-1] * len(layout.lead), [0] * len(layout.lead)
    left = [0] * len(layout.lead)
    for number, (row, count) in enumerate(zip(layout.owner, layout.counts, strict=True)):
        if count:
            counts[row], left[row], last[row] = counts[row] + left[row], count, number
    if not any(counts):
        return None
    device = layout.visual.device
    before = layout.visual & (layout.image != on_device(last, device)[:, None])
    return Rows(*columns_of(before, max(counts)))
