"""How much of a mention's attention lies outside the one place in the picture that gets the most of it"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from vtokens.core.errors import unknown
from vtokens.core.extras import needs
from vtokens.filter.signals.base import Signal, Spans, middle
from vtokens.filter.signals.registry import register
from vtokens.filter.trace.trace import Parts, Trace


@register(
    "compactness",
    paper="after patch-grounding detectors (ADS): attended patches of what is there lie together",
    says=("attention is scattered over several places of the picture", "attention lies on one place of the picture"),
)
@dataclass(frozen=True)
class Compactness(Signal):
    """1 - (attention of the heaviest connected patch region) / (all attention to the picture), from 0 to 1.

    Regions are made of the patches that get the most attention, neighbours among them (corners count) being one; no
    region spans two views, frames or pictures. Attention is averaged over heads, the watched layers and the mention's
    tokens. Where no attention is left the number is 1.

    Attributes:
        share: of a sample's visual tokens, how many are taken to be attended; a tenth in the papers.
    """

    heavy: ClassVar[bool] = True  # regions are found on the host

    share: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise unknown("share", str(self.share), ("a share in (0, 1], such as 0.1",))

    def parts(self, depth: int) -> Parts:
        return Parts(stretches=frozenset({middle(depth)}))

    def values(self, trace: Trace, spans: Spans) -> dict[str, Tensor]:
        trace.where("layers", trace.attending(middle(trace.depth)))
        looked = spans.over(trace.gaze.T, "mean").double().cpu().numpy()  # (N, n)
        found = [self._scattered(trace, looked[:, i]) for i in range(looked.shape[1])]
        return {self.name: torch.tensor(found, dtype=torch.float32, device=trace.ids.device)}

    def _scattered(self, trace: Trace, looked: np.ndarray) -> float:
        total = float(looked.sum())
        if total <= 0:
            return 1.0
        with needs("filter", "the signal 'compactness'"):
            from scipy import ndimage

        most = np.argsort(-looked, kind="stable")[: max(1, round(self.share * len(looked)))]
        taken = np.zeros(len(looked), dtype=bool)
        taken[most] = True
        picture, cell, heaviest = trace.picture.cpu().numpy(), trace.cell.cpu().numpy(), 0.0
        for number, shown in enumerate(trace.pictures):
            for view, grid in enumerate(shown.grids):
                here = np.flatnonzero((picture == number) & taken)
                here = here[shown.view[cell[here]] == view]
                if not len(here):
                    continue
                at, mass = cell[here], np.zeros(grid)
                mass[shown.t[at], shown.y[at], shown.x[at]] = looked[here]
                for frame in mass:
                    regions, count = ndimage.label(frame > 0, structure=np.ones((3, 3)))
                    if count:
                        heaviest = max(heaviest, float(np.max(ndimage.sum(frame, regions, range(1, count + 1)))))
        return 1 - min(1.0, heaviest / total)
