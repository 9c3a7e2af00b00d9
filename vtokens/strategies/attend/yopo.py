"""YOPO's two parts that need no training: pictures attend to their neighbourhood, and leave at a layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from vtokens.core.columns import columns_of
from vtokens.core.facts import Facts
from vtokens.strategies.base import Strategy
from vtokens.strategies.checks import check_layer
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.selection import Selection
from vtokens.strategies.views.heads import Heads, Rows
from vtokens.strategies.views.visuals import Visuals

_ROOM = 1 << 24
"""Most scores held at once."""


@register(
    "yopo",
    paper="Treat Visual Tokens as Text? But Your MLLM Only Needs Fewer Efforts to See, arXiv:2410.06169",
    evidence="text",
    shown="tests/strategies/test_yopo.py::test_it_is_dense_attention_with_a_mask",
)
@dataclass(frozen=True)
class Yopo(Strategy):
    """Lets visual tokens attend to text before them and to their neighbours in the picture, and drops all at a layer.

    A neighbour is in the same view and frame, at most (window - 1) / 2 rows and columns away. Text attends as ever
    until the pictures leave: from decoder layer `stop` on nothing is computed of them, nor attended to.

    Attributes:
        window: side of the neighbourhood, an odd number; None lets visual tokens attend to all that is before them.
        stop: decoder layer from which on there are no visual tokens, 1 to depth - 1; None is the middle one, 20 of 40
            as in the release; "never" keeps them.
        forward: neighbours that come later count as well, as in the release.
    """

    window: int | None = 5
    stop: int | str | None = None
    forward: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window is not None and (self.window < 1 or self.window % 2 == 0):
            raise ValueError(
                f"window={self.window} is no side of a neighbourhood: 1, 3, 5 and so on are allowed, or None"
            )
        if isinstance(self.stop, str) and self.stop != "never":
            raise ValueError(f"stop={self.stop!r} is not allowed: a decoder layer, None for the middle one, or 'never'")

    def _stop(self, depth: int) -> int:
        if isinstance(self.stop, str):
            return depth
        return max(1, depth // 2) if self.stop is None else check_layer("stop", self.stop, depth, first=1)

    def needs(self, facts: Facts) -> Needs:
        stop = self._stop(facts.depth)
        inside = [layer for layer in facts.attending if layer < stop] if self.window else []
        return Needs(layer=(stop,) if stop < facts.depth else (), attend=inside, computes=bool(inside), once=True)

    def at_layer(self, visuals: Visuals, index: int) -> Selection:
        return Selection(torch.zeros_like(visuals.valid), (0,) * len(visuals.counts))

    def at_attend(self, heads: Heads) -> None:
        layout = heads.layout
        if layout is None or self.window is None:
            return
        rows = Rows(*columns_of(layout.visual, max(layout.per_sample())))
        step = max(1, _ROOM // (heads.query.shape[0] * heads.query.shape[1] * heads.key.shape[2]))
        places, query, found = layout.places, rows.gather(heads.query), []
        for first in range(0, rows.index.shape[1], step):
            block = rows.index[:, first : first + step]
            seen = self._seen(heads, places, block)[:, None]
            shared = heads.query.shape[1] != heads.key.shape[1]
            some = (query[:, :, first : first + step], heads.key, heads.value, seen)
            found.append(scaled_dot_product_attention(*some, scale=heads.scaling, enable_gqa=shared))
        heads.replace(rows, torch.cat(found, 2))

    def _seen(self, heads: Heads, places: Tensor, block: Tensor) -> Tensor:
        """bool (B, R, K): the keys that visual rows (B, R) attend to."""
        past, at = heads.past, torch.arange(heads.key.shape[2], device=block.device)
        own = places.gather(1, block[..., None].expand(-1, -1, 5))[:, :, None]
        others = torch.nn.functional.pad(places, (0, 0, past, 0), value=-2)[:, None]
        same = (own[..., :3] == others[..., :3]).all(-1)
        near = same & ((own[..., 3:] - others[..., 3:]).abs() <= (self.window or 1) // 2).all(-1)
        before = at <= block[..., None] + past
        text = before & ~heads.visual[:, None]
        seen = text | (near if self.forward else near & before)
        if heads.valid is not None:
            seen = seen & heads.valid[:, None]
        return seen | (at == block[..., None] + past)
