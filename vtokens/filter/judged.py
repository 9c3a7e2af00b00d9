"""A mention and the probability that the image does not support it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vtokens.filter.mentions.base import Mention


@dataclass(frozen=True)
class Judged:
    """A mention with its signals, its probability and whether it is flagged.

    Attributes:
        mention: where it stands and what it claims; its fields can be read here as well (`text`, `start`, `kind`, ...).
        p: probability that the image does not support it; of an uncalibrated filter a score in [0, 1] that only ranks.
        score: what thresholds are set on: ranks as `p` does, without its ties.
        signals: what both were computed from, by name; high speaks for a hallucination.
        flagged: whether the score is above the threshold.
    """

    mention: Mention
    p: float
    score: float
    signals: dict[str, float]
    flagged: bool = False

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in Mention.__dataclass_fields__:
            raise AttributeError(f"a judged mention has no attribute {name!r}")
        return getattr(self.mention, name)

    def to_dict(self) -> dict[str, Any]:
        """Everything, in what JSON can hold."""
        more = {"p": self.p, "score": self.score, "flagged": self.flagged, "signals": self.signals}
        return {**self.mention.to_dict(), **more}
