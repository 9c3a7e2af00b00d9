"""Strategies where another engine runs the decoder: whether they can run there, how many tokens stay, and which."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vtokens.adapters import Adapter
from vtokens.core.budget import budget
from vtokens.core.layout import Layout
from vtokens.core.picture import Picture
from vtokens.engine.chosen import chosen
from vtokens.engine.program import active
from vtokens.engine.state.blend import Blend
from vtokens.engine.state.reduce import reduce
from vtokens.engine.state.tower_run import TowerRun
from vtokens.engine.state.view import gather
from vtokens.integrations.behind_tower.refusals import check_early, hinted, refuse
from vtokens.integrations.behind_tower.tower_signals import TowerSignals
from vtokens.strategies import Needs, Spec, Strategy, format_spec, parse
from vtokens.strategies.base import needs_of
from vtokens.strategies.signals import OfTower, Saliency
from vtokens.strategies.views.visuals import Visuals


@dataclass(frozen=True)
class Chosen:
    """What goes on of one picture.

    Attributes:
        kept: int64 (K,), the positions inside the picture that go on, ascending.
        features: (K, D); some are sums of several, where the strategy says so.
    """

    kept: Tensor
    features: Tensor


class Chooser:
    """Chooses among the features of pictures, as the `prompt` stage of an attached strategy does: the same methods run.

    How many tokens stay follows from how many there are, so that an engine can reserve room before the tower runs.

    Args:
        adapter: of the model, or of one of its shape (`stand_in`).
        spec: strategies, as `vtokens.parse` takes them.
        blocks: how many blocks of the vision tower the engine has, of the first ones; None if all.

    Attributes:
        text: the strategies; `parse` turns it back.

    Raises:
        TypeError, ValueError: as `vtokens.attach`; and what cannot run here, with the reason and what can.
    """

    def __init__(self, adapter: Adapter, spec: Spec, blocks: int | None = None) -> None:
        self._adapter, self._blocks = adapter, blocks
        strategies = parse(spec)
        try:
            self._set(strategies)
        except ValueError as error:
            raise hinted(error, strategies, self._runs) from None

    def _set(self, strategies: Sequence[Strategy]) -> None:
        check_early(strategies)
        strategies, _ = chosen(self._adapter, strategies)
        check_early(strategies)
        facts = self._adapter.facts
        for strategy in strategies:
            if not strategy._keeps_all:
                strategy.check(facts)
                needs = needs_of(strategy, facts)
                refuse(strategy, needs)
                self._check_blocks(strategy, needs)
        self._acting, self.text = active(self._adapter, strategies, None), format_spec(strategies)
        self._rehearse()

    @property
    def signals(self) -> frozenset[OfTower]:
        """What it reads of the vision tower."""
        found = (signal for one in self._acting for signal in one.needs.signals)
        return frozenset(signal for signal in found if isinstance(signal, OfTower))

    def kept(self, tokens: int) -> int:
        """How many visual tokens stay of a picture that has so many.

        Raises:
            ValueError: a strategy keeps a count, and there are fewer.
        """
        left = tokens
        for one in self._acting:
            left = _left(one.strategy, tokens, left)
        return left

    def choose(
        self,
        features: Sequence[Tensor],
        pictures: Sequence[Picture],
        run: TowerRun | None = None,
        width: int = 0,
        at: Tensor | None = None,
    ) -> list[Chosen]:
        """What goes on of each picture.

        Args:
            features: (n, D) each, as they would enter the decoder.
            pictures: which n positions these are.
            run: what the tower showed, where `signals` are read.
            width: channels of D that enter the decoder, where others behind them go along; 0 if all do.
            at: int64 (sum of n,), which of the tokens that `run` shows these are; None if all.

        Raises:
            RuntimeError: a strategy keeps another number of tokens than `kept` says.
        """
        hidden = torch.cat(list(features))[None]
        layout = _layout(pictures).to(hidden.device)
        columns = torch.arange(hidden.shape[1], device=hidden.device)[None]
        signals = TowerSignals(run, len(self._adapter.layers), None if at is None else at[None])
        for one in self._acting:
            entering = hidden[..., :width] if width else hidden
            visuals = Visuals(entering, layout, one.strategy.grouping, signals, one.prepared)
            selection = one.strategy.at_prompt(visuals)
            if selection is None:
                continue
            groups = layout.groups(one.strategy.grouping)
            counts = layout.per_picture(one.strategy.grouping, selection.counts)
            expected = tuple(
                _left(one.strategy, picture.tokens, left) for picture, left in zip(pictures, layout.counts, strict=True)
            )
            if counts != expected:
                said = "only the device knows how many" if counts is None else f"{list(counts)}"
                raise RuntimeError(
                    f"{format_spec([one.strategy])!r} keeps {said} of {list(layout.counts)} visual tokens, and its "
                    f"settings say {list(expected)}"
                )
            blend = Blend.of(selection, groups, layout.visual.shape, None)
            if blend is not None and blend.weights is not None:
                hidden = blend.put(hidden, blend.tokens(hidden))
            reduced = reduce(layout, groups.scatter(selection.keep, layout.visual), counts, None)
            if reduced is not None:
                view, seen = reduced
                layout, hidden = view.layout, gather(hidden, seen, 1)
                columns, signals = columns.gather(1, seen), signals.at(seen)
        sizes = [count + lines for count, lines in zip(layout.counts, layout.newlines, strict=True)]
        starts, start = [], 0
        for picture in pictures:
            starts.append(start)
            start += len(picture)
        parts = zip(columns[0].split(sizes), hidden[0].split(sizes), starts, strict=True)
        return [Chosen(where - first, rows) for where, rows, first in parts]

    def _check_blocks(self, strategy: Strategy, needs: Needs) -> None:
        if self._blocks is None:
            return
        depth, feature = len(self._adapter.tower.blocks), self._adapter.tower.feature_block
        for signal in needs.signals:
            named = (signal.blocks or ()) if isinstance(signal, Saliency) else (getattr(signal, "block", None),)
            for block in named:
                number = feature if block is None else block % depth
                if number >= self._blocks:
                    raise ValueError(
                        f"{format_spec([strategy])!r} reads block {number} of the vision tower, and the engine loads "
                        f"{self._blocks} of {depth}, up to the one that makes the features: 0 to {self._blocks - 1} is "
                        "allowed"
                    )

    def _rehearse(self) -> None:
        """Choose among drawn features, so that what cannot be said beforehand is refused now, and not at a request."""
        if not self._acting:
            return
        pictures = [Picture.of([(1, 6, 8)], [False]), Picture.of([(1, 5, 7)], [False])]
        most = max((one.strategy.keep for one in self._acting if isinstance(one.strategy.keep, int)), default=0)  # type: ignore[attr-defined]
        if most > 35:  # counts are of pictures that have so many
            pictures = [Picture.of([(1, 2, most)], [False]), Picture.of([(1, 3, most)], [False])]
        drawn = torch.Generator().manual_seed(0)
        features = [torch.randn(len(picture), 16, generator=drawn) for picture in pictures]
        run: Any = _Drawn(sum(map(len, pictures)), drawn)
        try:
            self.choose(features, pictures, run)
        except ValueError as error:
            raise ValueError(f"{self.text!r} {error}") from None
        except RuntimeError as error:
            raise ValueError(
                f"{error}: where another engine runs the decoder, room is reserved before the vision tower runs, so "
                "the number has to follow from keep alone"
            ) from None

    def _runs(self, strategy: Strategy) -> bool:
        try:
            copy.copy(self)._set([strategy])
        except (TypeError, ValueError, ImportError):
            return False
        return True


class _Drawn:
    """A tower that shows drawn numbers of so many tokens."""

    def __init__(self, tokens: int, drawn: torch.Generator) -> None:
        self._tokens, self._drawn = tokens, drawn

    def saliency(self, signal: Any) -> Tensor:
        return torch.rand(self._tokens, generator=self._drawn)

    def tower_keys(self, block: Any) -> Tensor:
        return torch.randn(self._tokens, 2, 4, generator=self._drawn)

    def tower_states(self, block: Any) -> Tensor:
        return torch.randn(self._tokens, 8, generator=self._drawn)


def _left(strategy: Strategy, whole: int, left: int) -> int:
    keep, of = strategy.keep, getattr(strategy, "of", "left")  # type: ignore[attr-defined]
    return min(left, budget(whole, keep)) if of == "original" else budget(left, keep)


def _layout(pictures: Sequence[Picture]) -> Layout:
    """Pictures that stand one behind the other in one row, and nothing else."""
    modalities: Mapping[str, Sequence[Picture]] = {"image": pictures}
    every = torch.ones(1, sum(map(len, pictures)), dtype=torch.bool)
    return Layout.build({"image": every}, modalities, every)
