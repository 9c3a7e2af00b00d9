"""FoPru: tokens, or whole rows of the picture, that get most of the vision tower's attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from vtokens.core.facts import Facts
from vtokens.core.picture import Picture
from vtokens.strategies.bases import ScorePruner
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.signals import Saliency
from vtokens.strategies.views.visuals import Visuals


@register(
    "fopru",
    paper="FoPru, arXiv:2411.14164",
    evidence="stand-in",
    shown="tests/strategies/test_fopru.py::test_rows_are_whole",
)
@dataclass(frozen=True)
class FoPru(ScorePruner):
    """Keeps the patches, or the rows of patches, that the vision tower attends to most.

    "rank" keeps the tokens with the highest scores; "row" adds up the scores of each row of each view and frame, and
    keeps whole rows, the highest sums first. Where K is no multiple of a row, the last row stays from its left.

    Attributes:
        keep: share or count per picture.
        by: "rank" or "row".
        rows: whose attention counts: that of the class token ("cls"; of all patches on towers without one), or "all".
    """

    by: Literal["rank", "row"] = "rank"
    rows: Literal["cls", "all"] = "cls"

    def needs(self, facts: Facts) -> Needs:
        return Needs(signals=(Saliency(rows=self.rows),))

    def score(self, visuals: Visuals) -> Tensor:
        scores = visuals.saliency(rows=self.rows)
        if self.by == "rank":
            return scores
        # All tokens of a row score alike, and of equals the earlier stays: rows go one after the other.
        tables = [_table(picture) for picture in visuals.layout.pictures]
        row, most = visuals.at_cells(tables).to(scores.device), max(int(one.max()) for one in tables) + 1
        sums = torch.zeros(len(row), most, device=scores.device)
        return sums.scatter_add(1, row, scores.masked_fill(~visuals.valid, 0)).gather(1, row)


def _table(picture: Picture) -> np.ndarray:
    """int64 (n,): the row of each position of a picture, counted over its views and frames."""
    places = np.stack([picture.view, picture.t, picture.y])
    return np.unique(places, axis=1, return_inverse=True)[1].reshape(-1)
