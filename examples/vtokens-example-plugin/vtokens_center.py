"""A strategy from outside the vtokens package: keep the visual tokens nearest the centre of the picture."""

from dataclasses import dataclass

import torch

from vtokens.strategies import ScorePruner, Visuals, register


@register("center")
@dataclass(frozen=True)
class Center(ScorePruner):
    """Keeps the tokens nearest the centre of each view of a picture.

    Attributes:
        keep: share or count per picture.
    """

    def score(self, visuals: Visuals) -> torch.Tensor:
        pictures = visuals.layout.pictures
        near = torch.full((len(pictures), max(len(picture) for picture in pictures)), -torch.inf)
        for row, picture in enumerate(pictures):
            size = torch.tensor(picture.grids)[picture.view]  # (n, 3): frames, height and width of each token's view
            y = (torch.from_numpy(picture.y) + 0.5) / size[:, 1] - 0.5
            x = (torch.from_numpy(picture.x) + 0.5) / size[:, 2] - 0.5
            near[row, : len(picture)] = -(x * x + y * y)
        return near.to(visuals.hidden.device).gather(1, visuals.cells.clamp(min=0))
