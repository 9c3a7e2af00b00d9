"""The small base of temporal pruners: a score of the tokens of videos, which sees them frame by frame."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from vtokens.core.budget import Keep, budget
from vtokens.core.facts import Facts
from vtokens.strategies.base import Strategy
from vtokens.strategies.bases import check_written
from vtokens.strategies.needs import Needs
from vtokens.strategies.selection import Selection
from vtokens.strategies.views.frames import Frames
from vtokens.strategies.views.visuals import Visuals


@dataclass(frozen=True)
class VideoPruner(Strategy):
    """A temporal pruner: of each video the tokens with the highest scores stay; images stay whole.

    Subclasses write `score`, and `least` where a video has to keep more than one token. It runs before the decoder.
    A family that is fed no videos, or a film as images, one for each frame, refuses it when it is attached.

    Attributes:
        keep: share or count per video.
        positions: "original" or "compact" numbers, as for a `ScorePruner`.
    """

    keep: Keep = 0.25
    positions: Literal["original", "compact"] = field(default="original", kw_only=True)

    def score(self, visuals: Visuals, frames: Frames) -> Tensor:
        """Floating (V, T, P): how much each token is worth; -inf and nan go first, ties to the earlier token.

        Args:
            visuals: all pictures of the batch.
            frames: where the tokens of its V videos stand.
        """
        raise NotImplementedError

    def least(self, frames: int, places: int) -> int:
        """The fewest tokens that stay of a video of so many frames with so many places each."""
        return 1

    def counts(self, visuals: Visuals, frames: Frames) -> list[int]:
        """How many tokens of each picture stay: of images all."""
        found = list(visuals.counts)
        for row, shape in zip(frames.rows, frames.shapes, strict=True):
            found[row] = min(found[row], max(self.least(*shape), budget(found[row], self.keep)))
        return found

    def at_prompt(self, visuals: Visuals) -> Selection | None:
        frames = visuals.frames
        if frames is None:
            return None
        return self.chosen(visuals, frames, self.counts(visuals, frames))

    def chosen(self, visuals: Visuals, frames: Frames, counts: list[int]) -> Selection:
        """What stays, as many tokens of each picture as `counts` says; what merges others into it writes this."""
        scores = self.score(visuals, frames)
        return visuals.best(frames.scatter(scores, visuals.valid.to(scores)), counts)

    def _completed(self, needs: Needs, facts: Facts) -> Needs:
        check_written(self, VideoPruner, "score", "chosen", "at_prompt", "at_layer")
        return dataclasses.replace(needs, compact=self.positions == "compact")
