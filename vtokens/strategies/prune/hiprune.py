"""HiPrune: anchors from the middle of the tower, the tokens beside them, and registers from its end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from vtokens.core.facts import Facts
from vtokens.core.on_device import on_device
from vtokens.core.picture import Picture
from vtokens.strategies.bases import ScorePruner
from vtokens.strategies.checks import check_layer, check_share
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.signals import Relevance, Saliency
from vtokens.strategies.views.visuals import Visuals


@register(
    "hiprune",
    paper="HiPrune, arXiv:2508.00553",
    venue="ACL 2026 Findings",
    evidence="parity",
    shown="tests/strategies/test_hiprune.py::test_the_release_keeps_the_same_tokens",
)
@dataclass(frozen=True)
class HiPrune(ScorePruner):
    """Keeps what a middle block of the vision tower attends to, the patches beside it, and what the last block does.

    Attention is that of all rows, mean over heads. Of K tokens, round(K * alpha / 5) are anchors: those that `block`
    attends to most. The four beside each are buffers. The rest are registers: those that the block which makes the
    features attends to most. With `text` above 0 this is HiPrune++: that share of them is left to the tokens whose
    cosine with the mean embedding of the text is highest among those not chosen.

    Attributes:
        keep: share or count per picture, all kinds together.
        block: the tower block that anchors come from, negative ones from the end; None is l of the paper: 8 of 24 and
            15 of 32, and at other depths 3/8 of a tower with a class token and half of one without.
        alpha: the share of the tokens that are anchors and buffers.
        text: beta of HiPrune++, text tokens for each other one; 0.1 in the paper, 0 is HiPrune.
    """

    block: int | None = None
    alpha: float = 0.1
    text: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("alpha", self.alpha)
        check_share("text", self.text)

    def check(self, facts: Facts) -> None:
        if self.block is not None and facts.tower_depth:
            check_layer("block", self.block, facts.tower_depth, first=-facts.tower_depth)

    def needs(self, facts: Facts) -> Needs:
        signals = (Saliency((self.prepare(facts),), rows="all"), Saliency(rows="all"))
        return Needs(signals=(*signals, Relevance()) if self.text else signals)

    def prepare(self, facts: Facts) -> int:
        if self.block is not None:
            return self.block
        middle = -(-3 * facts.tower_depth // 8) if facts.has_cls else facts.tower_depth // 2
        return max(0, middle - 1)

    def score(self, visuals: Visuals) -> Tensor:
        deep, middle = visuals.saliency(rows="all"), visuals.saliency((visuals.prepared,), rows="all")
        counts = visuals.budgets(self.keep, self.of)
        more = [int(self.text / (1 + self.text) * count + 0.5) for count in counts]
        base = [count - words for count, words in zip(counts, more, strict=True)]

        anchor = visuals.best(middle, [round(count * self.alpha / 5) for count in base]).keep
        beside = _beside(visuals, anchor)
        # Attention is above 0, so that adding more than the picture has puts anchors first, and buffers behind them.
        most = (deep.amax(1) + middle.amax(1) + 1)[:, None]
        score = deep + torch.where(beside | anchor, most + middle, 0) + torch.where(anchor, most, 0)
        if not self.text:
            return score
        chosen = visuals.best(score, base).keep
        words = visuals.text().float()
        mean = words[:, None] @ visuals.hidden.float() / words.sum(1).clamp(min=1)[:, None, None]
        owner = on_device([visuals.layout.owner[one] for one in visuals.owners], mean.device)
        like = cosine_similarity(visuals.tokens.float(), mean[owner], dim=-1)
        return torch.where(chosen, 2 + score.clamp(min=0), like)


def _beside(visuals: Visuals, anchor: Tensor) -> Tensor:
    """bool (G, M): tokens in the cell left of, right of, above or below that of an anchor."""
    pictures = visuals.layout.pictures
    size = max(map(len, pictures))
    near = visuals.at_cells([_neighbours(picture, size).T for picture in pictures]).to(anchor.device)
    cells = torch.where(visuals.valid, visuals.cells, size).to(anchor.device)
    marked = torch.zeros(len(cells), size + 1, dtype=torch.bool, device=anchor.device).scatter(1, cells, anchor)
    marked[:, size] = False  # beyond the edge, and padding
    return marked.gather(1, near.flatten(1)).view_as(near).any(2) & visuals.valid


def _neighbours(picture: Picture, nowhere: int) -> np.ndarray:
    """int64 (4, n): the positions left of, right of, above and below each one in its view and frame, or `nowhere`."""
    view, t, y, x = picture.view, picture.t, picture.y, picture.x
    shape = [int(part.max(initial=0)) + 3 for part in (view, t, y, x)]
    at = np.full(shape, nowhere)
    real = np.flatnonzero(view >= 0)
    place = [part[real] + 1 for part in (view, t, y, x)]
    at[tuple(place)] = real
    found = np.full((4, len(picture)), nowhere)
    for number, (down, across) in enumerate(((0, -1), (0, 1), (-1, 0), (1, 0))):
        found[number, real] = at[place[0], place[1], place[2] + down, place[3] + across]
    return found
