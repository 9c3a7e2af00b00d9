"""The signals of the vision tower for strategies that choose before any decoder; all others are refused."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, NoReturn

import torch
from torch import Tensor

from vtokens.engine.state.tower_run import TowerRun
from vtokens.integrations.behind_tower.refusals import BEFORE
from vtokens.strategies.signals import Heads, InLayer, Saliency, Sensitivity, Text, Voters


class TowerSignals:
    """What strategies may read of one batch of pictures, whose visual tokens stand one behind the other (`Observed`).

    Args:
        run: what the tower showed of itself; None if it was not watched.
        depth: decoder layers of the model.
        columns: int64 (1, W), which of all tokens are seen; None if all.
    """

    def __init__(self, run: TowerRun | None, depth: int, columns: Tensor | None = None) -> None:
        self._run, self._depth, self._columns = run, depth, columns
        self._made: dict[Hashable, Tensor] = {}
        self._notes: dict[int, dict[int, Any]] = {}

    def at(self, columns: Tensor) -> TowerSignals:
        """The signals of some of the tokens seen here, int64 (1, W')."""
        seen = columns if self._columns is None else self._columns.gather(1, columns)
        return TowerSignals(self._run, self._depth, seen)

    def saliency(self, blocks: tuple[int, ...] | None, rows: Voters = "cls", heads: Heads = "mean") -> Tensor:
        """float32 (1, W)."""
        return self._of(lambda run: run.saliency(Saliency(blocks, rows, heads)))

    def tower_keys(self, block: int | None) -> Tensor:
        """float32 (1, W, H, D)."""
        return self._of(lambda run: run.tower_keys(block))

    def tower_states(self, block: int | None) -> Tensor:
        """float32 (1, W, C)."""
        return self._of(lambda run: run.tower_states(block))

    def once(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """What `make` returns, made once."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def notes(self, strategy: object) -> dict[int, Any]:
        """Picture -> what a strategy noted about it."""
        return self._notes.setdefault(id(strategy), {})

    @property
    def depth(self) -> int:
        """How many layers the decoder has."""
        return self._depth

    def copies(self) -> None:
        """Nothing is merged in the tower."""

    def sizes(self) -> None:
        """Every token counts once."""

    def knows(self, signal: InLayer) -> bool:
        """No decoder layer has run."""
        return False

    def encoded(self, name: str) -> Tensor:
        """Refused."""
        _refuse("notes made inside the vision tower")

    def sensitivity(self, signal: Sensitivity) -> Tensor:
        """Refused."""
        _refuse("how features move with the projector's input")

    def noted(self, signal: InLayer) -> Tensor:
        """Refused."""
        _refuse("what a decoder layer does")

    def relevance(self, text: Text) -> Tensor:
        """Refused."""
        _refuse("how much tokens are like the prompt's text")

    def text(self, text: Text) -> Tensor:
        """Refused."""
        _refuse("the prompt's text")

    def ids(self) -> Tensor:
        """Refused."""
        _refuse("the words of the prompt")

    def normed(self, states: Tensor) -> Tensor:
        """Refused."""
        _refuse("the norm of the decoder")

    def _of(self, find: Callable[[TowerRun], Tensor]) -> Tensor:
        if self._run is None:
            raise ValueError("the vision tower was not watched for a strategy that reads what it attends to")
        found = find(self._run)[None]
        if self._columns is None:
            return found
        where = self._columns.to(found.device).view(1, -1, *[1] * (found.dim() - 2))
        return torch.take_along_dim(found, where, 1)


def _refuse(what: str) -> NoReturn:
    raise ValueError(f"reads {what}: {BEFORE}")
