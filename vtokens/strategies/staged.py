"""The small base of pruners that drop tokens at several depths: a score for each stage, and what it leaves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar, Literal

import numpy as np
from torch import Tensor

from vtokens.core.budget import Keep, budget, share_of
from vtokens.core.facts import Facts
from vtokens.strategies.base import Strategy
from vtokens.strategies.bases import check_written
from vtokens.strategies.checks import check_layer
from vtokens.strategies.needs import Needs
from vtokens.strategies.selection import Selection
from vtokens.strategies.views.visuals import Visuals


@dataclass(frozen=True)
class StagedPruner(Strategy):
    """A pruner of several stages: before each of some decoder layers the tokens with the highest scores stay.

    Subclasses write `score`, and say what they read in `reads`.

    Attributes:
        schedules: the shares that published budgets leave at each stage, the largest first; said by the class. What
            `before` is where it is None follows from them.
        keep: share or count per picture that the last stage leaves.
        layers: the decoder layers before which the stages run, ascending: numbers from 1, or shares of the depth, which
            are rounded to the nearest layer that is possible.
        before: the shares that the stages before the last leave, falling. None: those published for this `keep`, and
            for another one keep**e, with the e of published ones on either side of it.
        positions: "original" or "compact" numbers, as for a `ScorePruner`.
        of: shares are those of the tokens "left" where the first stage runs, or of the "original" picture.
    """

    schedules: ClassVar[tuple[tuple[float, ...], ...]] = ((0.5, 0.25, 0.125),)
    keep: Keep = 0.125
    layers: tuple[int | float, ...] = (0.25, 0.5, 0.75)
    before: tuple[float, ...] | None = None
    positions: Literal["original", "compact"] = field(default="original", kw_only=True)
    of: Literal["left", "original"] = field(default="left", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        stages, most = len(self.layers), self.keep if isinstance(self.keep, float) else 0.0
        if not stages:
            raise ValueError("layers=() are no stages: one layer or more is needed, as layers=(0.25, 0.5, 0.75)")
        for layer in self.layers:
            check_share_of_depth("layers", layer)
        for one, other in pairwise(self.layers):
            if type(one) is type(other) and one >= other:
                raise ValueError(f"layers={self.layers!r} are not ascending: each stage is later than the one before")
        if self.before is None:
            if stages != len(self.schedules[0]):
                raise ValueError(
                    f"layers={self.layers!r} are {stages} stages, and {self.name!r} is published with "
                    f"{len(self.schedules[0])}: say what the first {stages - 1} leave, as before={_example(stages)!r}"
                )
            return
        if len(self.before) != stages - 1:
            raise ValueError(
                f"before={self.before!r} names {len(self.before)} shares: the {stages} stages of layers="
                f"{self.layers!r} need {stages - 1}, as the last one leaves `keep`"
            )
        falling = (1.0, *self.before, most or min((1e-9, *self.before)))
        if not all(one >= other > 0 for one, other in pairwise(falling)):
            raise ValueError(f"before={self.before!r}, then keep={self.keep!r}: shares in (0, 1] that fall are allowed")

    def score(self, visuals: Visuals, index: int) -> Tensor:
        """Floating (G, M): how much each token is worth before decoder layer `index`; read as `Visuals.top` does."""
        raise NotImplementedError

    def reads(self, layer: int) -> Needs:
        """What the stage before decoder layer `layer` needs to be observed."""
        return Needs()

    def possible(self, facts: Facts) -> Sequence[int]:
        """The decoder layers that shares of the depth may be rounded to: by default all behind one with attention."""
        return facts.behind_attending

    def prepare(self, facts: Facts) -> tuple[int, ...]:
        return layers_at("layers", self.layers, facts, self.possible(facts))

    def needs(self, facts: Facts) -> Needs:
        layers = self.prepare(facts)
        signals = tuple(signal for layer in layers for signal in self.reads(layer).signals)
        return Needs(signals=signals, layer=layers, compact=self.positions == "compact")

    def _completed(self, needs: Needs, facts: Facts) -> Needs:
        check_written(self, StagedPruner, "score", "at_layer")
        return needs

    def counts(self, visuals: Visuals, index: int) -> list[int]:
        """How many tokens of each picture the stage before decoder layer `index` leaves."""
        stage, entered = visuals.prepared.index(index), visuals.observed.notes(self)
        found = []
        for row, (left, picture) in enumerate(zip(visuals.counts, visuals.layout.pictures, strict=True)):
            whole = picture.tokens if self.of == "original" else entered.setdefault(row, left)
            found.append(min(left, self._left(whole, stage)))
        return found

    def _left(self, whole: int, stage: int) -> int:
        """How many of `whole` tokens a stage leaves."""
        last = budget(whole, self.keep)
        if not whole or stage == len(self.layers) - 1:
            return last
        return max(last, budget(whole, self.shares(share_of(whole, self.keep))[stage]))

    def shares(self, keep: float) -> tuple[float, ...]:
        """What the stages before the last leave where that leaves a share `keep`."""
        if self.before is not None or keep == 1:
            return self.before or (1.0,) * (len(self.layers) - 1)
        known = sorted(self.schedules, key=lambda shares: shares[-1])
        at = [math.log(shares[-1]) for shares in known]
        return tuple(
            min(1.0, keep ** float(np.interp(math.log(keep), at, [math.log(s[i]) / math.log(s[-1]) for s in known])))
            for i in range(len(self.layers) - 1)
        )

    def at_layer(self, visuals: Visuals, index: int) -> Selection | None:
        counts = self.counts(visuals, index)
        if counts == list(visuals.counts):
            return None
        return visuals.best(self.score(visuals, index), counts)


def check_share_of_depth(what: str, layer: int | float) -> None:
    """Raise `ValueError` for a float that is no share of a depth; numbers of layers are left to `layers_at`."""
    if isinstance(layer, float) and not 0 < layer < 1:
        raise ValueError(
            f"{what}={layer!r} is out of range: a layer number is allowed, or a share of the depth in (0, 1)"
        )


def layers_at(what: str, layers: Sequence[int | float], facts: Facts, possible: Sequence[int]) -> tuple[int, ...]:
    """The decoder layers that a setting names on a model, ascending.

    Args:
        what: the setting.
        layers: numbers from 1, or shares of the depth: the nearest of the `possible` layers, the later of two, behind
            that of the stage before and with room for those after it.

    Raises:
        ValueError: a number that is out of range, or more stages than there are layers for.
    """
    found: list[int] = []
    for place, layer in enumerate(layers):
        last = found[-1] if found else 0
        if isinstance(layer, int):
            found.append(check_layer(what, layer, facts.depth, first=1))
            if layer <= last:
                raise ValueError(f"{what}={tuple(layers)!r} are {(*found,)} of {facts.depth}: they have to ascend")
            continue
        room = [one for one in possible if one > last]
        after = len(layers) - place - 1
        room = room[: len(room) - after]
        if not room:
            raise ValueError(
                f"{what}={tuple(layers)!r} needs {after + 1} layers behind layer {last}, and of the {facts.depth} of "
                f"this decoder {sum(one > last for one in possible)} are possible: name fewer, or earlier ones"
            )
        found.append(min(room, key=lambda one: (abs(one - layer * facts.depth), -one)))
    return tuple(found)


def _example(stages: int) -> tuple[float, ...]:
    return tuple(0.5 ** (number + 1) for number in range(stages - 1))
