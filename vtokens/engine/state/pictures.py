"""What a lane has only because it brings pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from vtokens.core.later import Later, Made
from vtokens.core.layout import Layout
from vtokens.engine.record import Record
from vtokens.engine.state.folds import Unmerging
from vtokens.engine.state.injection import Injection
from vtokens.engine.state.tower_run import TowerRun
from vtokens.strategies.signals import Signal


class Pictures:
    """The pictures of a lane, and what is found out about them on its way through the layers.

    Attributes:
        layout: where visual tokens sit in what was fed.
        runs: what the vision tower saw of them, images before videos.
        positions: int64 (C, B, N), rotary positions of what was fed.
        ends: int64 (B, 1), the fed position at which each prompt ends.
        answered: how many real positions of each sample stand behind the end of its prompt, read when it is asked.
        record: what the pass does, for the report.
        observed: signal -> (B, N, ...), what was observed of fed positions for it.
        pending: those that are worked out if somebody reads them before the next layer -> how.
        notes: strategy -> what it noted for its later stages in this pass.
        raters: bool (B, N), the words that "raters" means; None unless a strategy asks for them.
        lost: bool (B, N), fed visual tokens of samples that have none any more, as they were before the last went;
            None if every sample has some.
        unmerging: which merged tokens attention is to see at all of their positions; None if none.
        ids: int64 (B, N), token ids of what was fed; None if it was given as embeddings.
        injection: what the engine adds to states behind the first layers; None if nothing.
    """

    ends = Made("ends")

    def __init__(
        self,
        layout: Layout,
        runs: Sequence[TowerRun],
        positions: Tensor,
        ends: Tensor | Later[Tensor],
        answered: Callable[[], tuple[int, ...]],
        record: Record,
        injection: Injection | None = None,
        ids: Tensor | None = None,
    ) -> None:
        self.layout, self.runs, self.positions, self.ends = layout, runs, positions, ends
        self.answered, self.record, self.injection, self.ids = answered, record, injection, ids
        self.observed: dict[Signal, Tensor] = {}
        self.pending: dict[Signal, Callable[[], Tensor]] = {}
        self.notes: dict[object, dict[int, Any]] = {}
        self.raters: Tensor | None = None
        self.lost: Tensor | None = None
        self.unmerging: Unmerging | None = None
