"""What decoder layers saw of each sample and of each picture in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vtokens.core.picture import Picture


@dataclass(frozen=True)
class KeptPicture:
    """What decoder layers saw of one image or video of a sample.

    Attributes:
        picture: its views and grids.
        kept: for each decoder layer, int64 (n,): the positions inside the picture that the layer saw, ascending,
            newline positions left out; index `picture.view/t/y/x` with them.
        merged: int64 (len(picture),): for each position the one it was merged into, itself if it was not; None if the
            vision tower merged nothing.
    """

    picture: Picture
    kept: tuple[np.ndarray, ...]
    merged: np.ndarray | None = None

    def brightness(self, view: int = -1) -> np.ndarray:
        """float32 (t, h, w) in 0..1: the share of layers that saw each patch of a view (negative from the last).

        Merged patches share what was seen of the token they were merged into.
        """
        picture = self.picture
        view %= len(picture.grids)
        share = np.zeros(len(picture), dtype=np.float32)
        for positions in self.kept:
            share[positions] += 1
        share /= max(len(self.kept), 1)
        if self.merged is not None:
            share = share[self.merged]
        out = np.zeros(picture.grids[view], dtype=np.float32)
        inside = picture.view == view
        out[picture.t[inside], picture.y[inside], picture.x[inside]] = share[inside]
        return out

    def __repr__(self) -> str:
        last = len(self.kept[-1]) if self.kept else 0
        return (
            f"<KeptPicture: {self.picture.modality} of {self.picture.tokens} visual tokens, {last} in the last layer>"
        )


@dataclass(frozen=True)
class SampleReport:
    """What decoder layers saw of one row of the batch.

    Attributes:
        visual_tokens: visual tokens seen by each decoder layer.
        positions: for each decoder layer, int64 (n,): the fed positions it saw, padding left out.
        pictures: the row's pictures, its images before its videos.
    """

    visual_tokens: tuple[int, ...]
    positions: tuple[np.ndarray, ...]
    pictures: tuple[KeptPicture, ...]

    @property
    def average_tokens(self) -> float:
        """Visual tokens averaged over the decoder layers."""
        return sum(self.visual_tokens) / len(self.visual_tokens)

    def __repr__(self) -> str:
        return f"<SampleReport: {self.average_tokens:.1f} visual tokens per layer, {len(self.pictures)} picture(s)>"
