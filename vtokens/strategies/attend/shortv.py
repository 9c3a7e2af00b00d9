"""ShortV: in the layers that change visual tokens least, visual tokens are not computed."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vtokens.core.facts import Facts
from vtokens.strategies.base import Strategy
from vtokens.strategies.checks import check_layers, check_share
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.selection import Selection
from vtokens.strategies.views.visuals import Visuals

_7B, _13B = "llama-32x4096x11008", "llama-40x5120x13824"
RANKED: dict[tuple[str, str], tuple[int, ...]] = {
    ("llava", _7B): (31, 29, 30, 28, 0, 26, 27, 25, 24, 22, 23, 21, 2, 3, 20, 18, 17, 12, 19),
    ("llava", _13B): (
        39, 32, 28, 36, 27, 37, 29, 30, 1, 38, 25, 31, 2, 26, 23, 34, 0, 33, 35, 22, 24, 21, 20, 17,
    ),
    ("llava_next", _7B): (31, 29, 30, 28, 26, 27, 22, 24, 21, 23, 25, 20, 19, 17, 18, 15, 12, 0, 2),
    ("llava_next", _13B): (
        39, 32, 29, 36, 27, 30, 37, 23, 25, 31, 26, 2, 28, 22, 33, 35, 34, 24, 38, 21, 20, 18, 1, 17,
    ),
}  # fmt: skip
"""Family and decoder -> the layers that contribute least to visual tokens, least first, as the authors publish them."""


@register(
    "shortv",
    paper="ShortV, arXiv:2504.00502",
    evidence="text",
    shown="tests/strategies/test_shortv.py::test_it_is_a_model_whose_layers_put_visual_rows_back",
)
@dataclass(frozen=True)
class ShortV(Strategy):
    """Lets visual tokens pass through a share of the decoder layers as they are; text attends to them there too.

    In such a layer only rows of text have queries, attention and an MLP; of visual tokens it makes keys and values.
    No token is dropped, and none is missing from the cache.

    Attributes:
        share: of the decoder layers, 0 to 1: those that the authors found to contribute least for LLaVA-1.5 and
            LLaVA-NeXT with Vicuna, the deepest ones for other decoders.
        layers: these in place of a share; negative ones from the end.
    """

    share: float = 0.6
    layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("share", self.share)

    def frozen(self, facts: Facts) -> tuple[int, ...]:
        """The layers that do not compute visual tokens, ascending."""
        depth = facts.depth
        if self.layers is not None:
            return check_layers("layers", self.layers, depth, first=-depth)
        count, ranked = int(self.share * depth + 0.5), RANKED.get((facts.family, facts.decoder), ())
        ranked = (*ranked, *(layer for layer in reversed(range(depth)) if layer not in ranked))
        return tuple(sorted(ranked[:count]))

    def needs(self, facts: Facts) -> Needs:
        return Needs(rows=self.frozen(facts))

    def at_rows(self, visuals: Visuals, index: int) -> Selection:
        return Selection(torch.zeros_like(visuals.valid), (0,) * len(visuals.counts))
