"""VAR: attention that sinks draw off is given back to the visual tokens that carry something."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vtokens.core.facts import Facts
from vtokens.kernels.recycling import DRAIN, GIVER, REST, TARGET, Recycling
from vtokens.strategies.base import Strategy
from vtokens.strategies.checks import check_layer, check_share
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.views.heads import Heads
from vtokens.tables import sinks as tables
from vtokens.tables.sinks import Sinks

TEXT_SINK, VISUAL_SINK, VISUAL, TEXT = GIVER, DRAIN, TARGET, REST
_GROUP = "var.group"


@register(
    "var",
    paper="VAR, arXiv:2503.03321",
    venue="ICLR 2025",
    evidence="text",
    shown="tests/strategies/test_var.py::test_equals_the_dense_formula",
)
@dataclass(frozen=True)
class Var(Strategy):
    """Moves attention from sink tokens to the other visual tokens, in heads that look at the picture.

    Sinks are tokens, of text and picture alike, with a huge activation in certain dimensions of the state that enters
    the layer. For text after the picture and for generated tokens, a head that spends at least `min_visual` of its
    attention on visual tokens, and at least `min_nonsink_ratio` of that on visual tokens that are no sinks, gives
    `recycle_fraction` of what its sinks draw to those, in proportion. Each row keeps its sum.

    Attributes:
        recycle_fraction: p of the paper; the released code calls 1 - p by that letter.
        min_nonsink_ratio: rho of the paper; the released code's is 1 - rho.
        min_visual: the visual mass below which a head is left alone.
        first_layer: the first decoder layer that takes part; the last layer never does.
        sinks: JSON file of sink dimensions that `vtokens calibrate var` wrote; None takes the shipped ones.
    """

    recycle_fraction: float = 0.6
    min_nonsink_ratio: float = 0.5
    min_visual: float = 0.2
    first_layer: int = 2
    sinks: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("recycle_fraction", "min_nonsink_ratio", "min_visual"):
            check_share(name, getattr(self, name))

    def check(self, facts: Facts) -> None:
        check_layer("first_layer", self.first_layer, facts.depth)
        self.prepare(facts)

    def prepare(self, facts: Facts) -> Sinks:
        table = tables.known(facts.decoder) if self.sinks is None else tables.read(self.sinks)
        if table is None:
            raise ValueError(
                f"the sink dimensions of the decoder {facts.decoder!r} are not known: `vtokens calibrate var MODEL "
                "--out sinks.json` finds them, and 'var(sinks=\"sinks.json\")' uses them"
            )
        if table.decoder != facts.decoder:
            raise ValueError(
                f"{self.sinks!r} holds the sink dimensions of the decoder {table.decoder!r}, this one is "
                f"{facts.decoder!r}: find its own with `vtokens calibrate var MODEL --out FILE`"
            )
        if table.dims and facts.width and max(table.dims) >= facts.width:
            raise ValueError(
                f"{self.sinks!r} names the dimension {max(table.dims)}: the states of this decoder have {facts.width}, "
                "from 0 on"
            )
        return table

    def needs(self, facts: Facts) -> Needs:
        moves = bool(self.prepare(facts).dims and self.recycle_fraction)
        where = [layer for layer in facts.attending if self.first_layer <= layer < facts.depth - 1]
        return Needs(attend=where if moves else (), weighs=True, once=True)

    def at_attend(self, heads: Heads) -> None:
        if heads.is_image_prefill:
            sink, visual = heads.prepared.find(heads.hidden), heads.visual[:, heads.past :]
            group = torch.where(visual, torch.where(sink, VISUAL_SINK, VISUAL), torch.where(sink, TEXT_SINK, TEXT))
            heads.mark(_GROUP, group, fill=TEXT)
        if not heads.answers.index.shape[1]:
            return
        group = heads.marks(_GROUP)
        values, weights = heads.reweighed(group, 4, heads.answers, self.rule)
        if not heads.answers.whole:
            # Where nothing moves, the bits stay those of the implementation the user chose.
            qualified = self.redistribute(weights)[1]
            values = torch.where(qualified[..., None], values, heads.at(heads.answers).float())
        heads.replace(heads.answers, values)
        if heads.is_image_prefill:
            self._tell(heads, weights, *self.redistribute(weights))

    @property
    def rule(self) -> Recycling:
        """Without a visual sink nothing about the picture is drawn off: text sinks keep theirs, as in the release."""
        return Recycling(self.recycle_fraction, self.min_visual, self.min_nonsink_ratio)

    def redistribute(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """New group weights, and where they differ.

        Args:
            weights: float32 (4, B, H, R), the mass of `TEXT_SINK`, `VISUAL_SINK`, `VISUAL` and `TEXT` in each row.

        Returns:
            The same after redistribution, and bool (B, H, R), the heads and rows that took part.
        """
        return self.rule(weights), self.rule.applies(weights)

    def _tell(self, heads: Heads, before: Tensor, after: Tensor, qualified: Tensor) -> None:
        rows = heads.answers.real
        real = torch.ones_like(heads.answers.index, dtype=torch.bool) if rows is None else rows
        count = real.sum(1).clamp(min=1) * qualified.shape[1]
        moved = (after[VISUAL] - before[VISUAL]) * real[:, None]
        heads.log("heads_changed", (qualified & real[:, None]).sum((1, 2)) / count)
        heads.log("attention_moved", moved.sum((1, 2)) / count)
