"""Which strategy acts where on a given model, and what has to be observed for it.

handle.using(["cls(keep=0.25)", "none", "cls(keep=0.25)+vhr"])

    row 0   cls         at_prompt: cls on rows 0, 2
    row 1               at_attend: vhr on row 2
    row 2   cls, vhr
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vtokens.adapters import Adapter
from vtokens.engine.chosen import chosen
from vtokens.engine.program import Acting, Rows, active, alike, by_layer, check_beside, in_attention, under, watched
from vtokens.strategies import Strategy
from vtokens.strategies.signals import (
    Attention,
    Change,
    Entering,
    LayerKeys,
    Neurons,
    Relevance,
    Saliency,
    Scored,
    Sensitivity,
    TowerKeys,
    TowerStates,
)
from vtokens.strategies.views.logits import Negative
from vtokens.strategies.views.states import Place


class Plan:
    """Strategies spread over the stages of one model; made once, when they are attached.

    Attributes:
        strategies: all of them, in the written order.
        programs: for each batch row, before beams repeat them, the strategies that run on it; None if all rows run the
            same ones, however many rows there are.
        at_pixels: the strategy that shows the tower less of each picture; None if it is shown all.
        at_encode: tower block, or round behind the tower -> the strategy that merges there, and what it prepared.
        at_prompt: the strategies that act before the decoder, in the written order.
        at_layer: decoder layer -> the strategies that act before it, in the written order.
        at_rows: decoder layer -> the strategies that say which visual tokens it computes.
        at_attend: decoder layer -> the strategies that act in its attention: first the one that computes it, if there
            is one, then the others in the written order.
        watched: decoder layer -> the strategies that act in its attention, where all of them only watch.
        at_cache: decoder layer -> the strategies that drop keys cached there.
        at_states: place and decoder layer -> the strategies that add to what leaves it, in the written order.
        contrast: how logits are contrasted; None if they are not.
        at_logits: the strategies that change logits without a negative prompt, in the written order, behind a contrast.
        early: the decoder layers of whose entering states strategies make logits.
        rehearsal: what runs on a prompt with pictures before it does; None if nothing has to.
        unmerges: attention has to see merged tokens at all of their positions.
        compact: gaps in the numbering are closed.
        sizes: attention has to see tokens that count for several.
        text_lane: a strategy reads what the prompt's text gives without its pictures (`Heads.text_lane`).
        scored: the tower blocks whose attention is read, and how.
        key_blocks: the tower blocks whose keys are read.
        state_blocks: the tower blocks of which what leaves them is read.
        sensitivities: the signals that push the projector's input.
        observed: decoder layer -> the attention signals read from it.
        observed_keys: decoder layer -> the signals that are its keys.
        observed_neurons: decoder layer -> the signals that compare active neurons of its MLP.
        entering: the decoder layers whose entering states are read.
        changes: decoder layer -> the signals that say how its parts change what they are given.
        relevances: the signals that compare visual tokens with the text.
        rooms: decoder layer -> the most slots that a static cache was given there, so that later ones get as many.

    Args:
        strategies: those that run on all rows.
        programs: those of each row, in place of `strategies`.

    Raises:
        TypeError, ValueError: settings, or a combination, that cannot run on this model, or rows that cannot run beside
            each other.
    """

    def __init__(
        self,
        adapter: Adapter,
        strategies: Sequence[Strategy] = (),
        programs: Sequence[Sequence[Strategy]] | None = None,
    ) -> None:
        if programs is not None and not programs:
            raise ValueError(
                "no programs: one for each row of the batch is needed, 'none' for a row that is left alone"
            )
        self.programs = None if programs is None else tuple(chosen(adapter, program)[0] for program in programs)
        self.rooms: dict[int, int] = {}
        shares = [(chosen(adapter, strategies)[0], None)] if self.programs is None else alike(self.programs)
        self.strategies = tuple(strategy for some, _ in shares for strategy in some)
        found = [active(adapter, some, rows) for some, rows in shares]
        if len(found) > 1:
            check_beside(found)
        every = [one for program in found for one in program]
        self.unmerges = any(one.needs.unmerges for one in every)
        self.compact = any(one.needs.compact for one in every)
        self.sizes = any(part.needs.sizes for one in every for part in (one, *one.modifiers))
        self.text_lane = any(one.needs.text_lane for one in every)
        self.at_pixels = next((one for one in every if one.needs.pixels), None)
        self.at_encode = {index: (one.strategy, one.prepared) for one in every for index in one.needs.encode}
        self.at_prompt = [one for one in every if "prompt" in one.strategy.stages()]
        self.at_layer = by_layer(every, "layer")
        self.at_rows = by_layer(every, "rows")
        # A modifier may act inside attention too.
        whole = [[part for one in program for part in (one, *one.modifiers)] for program in found]
        self.at_attend = by_layer(in_attention(whole), "attend")
        self.watched = {} if self.unmerges else watched(self.at_attend)
        self.at_cache = by_layer(every, "cache")
        self.at_states: dict[tuple[Place, int], list[Acting]] = {
            **{("layer", index): there for index, there in by_layer(every, "states").items()},
            **{("mlp", index): there for index, there in by_layer(every, "mlp").items()},
        }
        self.at_logits = [one for one in every if "logits" in one.strategy.stages() and one.negative is None]
        self.early = {index for one in every for index in one.needs.early}
        self.contrast = _contrast(adapter, found, len(self.programs or ()))
        self.rehearsal = _rehearsal(adapter, found, self.programs)
        self._observe(adapter, every)

    def _observe(self, adapter: Adapter, every: Sequence[Acting]) -> None:
        every = [part for one in every for part in (one, *one.modifiers)]
        signals = [signal for one in every for signal in one.needs.signals]
        self.observed: dict[int, set[Attention]] = {}
        self.observed_keys: dict[int, set[LayerKeys]] = {}
        self.observed_neurons: dict[int, set[Neurons]] = {}
        for signal in signals:
            if isinstance(signal, Attention):
                self.observed.setdefault(signal.layer, set()).add(signal)
            elif isinstance(signal, LayerKeys):
                self.observed_keys.setdefault(signal.layer, set()).add(signal)
            elif isinstance(signal, Neurons):
                self.observed_neurons.setdefault(signal.layer, set()).add(signal)
        self.entering = {signal.layer for signal in signals if isinstance(signal, Entering)}
        self.changes: dict[int, set[Change]] = {}
        for change in (signal for signal in signals if isinstance(signal, Change)):
            self.changes.setdefault(change.layer, set()).add(change)
        self.relevances = {signal for signal in signals if isinstance(signal, Relevance)}
        depth, negative = len(adapter.tower.blocks), None if self.contrast is None else self.contrast.plan
        scored = [one for one in signals if isinstance(one, Saliency)]
        keyed = [one for one in signals if isinstance(one, TowerKeys)]
        stated = [one for one in signals if isinstance(one, TowerStates)]
        inside = bool(scored or keyed or stated or (self.at_encode and adapter.tower.merges))
        feature = adapter.tower.feature_block if inside else 0
        self._tower = (depth, feature) if inside else None
        found = {part for one in scored for part in one.scored(depth, feature)}
        self.scored: set[Scored] = found.union(() if negative is None else negative.scored)
        keys = {feature if one.block is None else one.block % depth for one in keyed}
        self.key_blocks: set[int] = keys.union(() if negative is None else negative.key_blocks)
        states = {feature if one.block is None else one.block % depth for one in stated}
        self.state_blocks: set[int] = states.union(() if negative is None else negative.state_blocks)
        pushed = {one for one in signals if isinstance(one, Sensitivity)}
        self.sensitivities: set[Sensitivity] = pushed.union(() if negative is None else negative.sensitivities)

    def check_tower(self, adapter: Adapter) -> None:
        """Raise `RuntimeError` if what acts or looks inside of the tower was chosen for another one."""
        if self._tower is not None and self._tower != (now := (len(adapter.tower.blocks), adapter.tower.feature_block)):
            was = "block {1} of {0}"
            raise RuntimeError(
                f"the features came from {was.format(*self._tower)} of the vision tower when strategies were attached, "
                f"and come from {was.format(*now)} now: detach() and attach() again"
            )

    @property
    def apart(self) -> list[Plan]:
        """The plans of the sequences that run beside the prompt, or before it."""
        return [*([] if self.contrast is None else [self.contrast.plan]), *filter(None, [self.rehearsal])]

    def __bool__(self) -> bool:
        before = self.at_pixels or self.at_encode or self.at_prompt or self.at_layer or self.at_rows
        return bool(before or self.at_attend or self.at_states or self.at_cache or self.contrast or self.at_logits)

    @property
    def light(self) -> bool:
        """Whether all of it is over once a prompt was read: steps have nothing to do but to see fewer keys."""
        inside = self.at_rows or self.at_attend or self.at_states or self.at_cache or self.unmerges or self.sizes
        return not (inside or self.contrast or self.at_logits)

    def tapped_blocks(self, adapter: Adapter) -> list[int]:
        """The tower blocks whose attention goes through a tap."""
        # From the first merge on, every block has to know how many patches a token stands for.
        merging = range(min(self.at_encode), len(adapter.tower.blocks)) if self.at_encode else ()
        if self.at_pixels is not None and self.at_pixels.needs.pixels == "repeats":  # and which are padding
            merging = range(len(adapter.tower.blocks))
        return sorted(
            {*(block for block, _, _ in self.scored), *self.key_blocks, *(merging if adapter.tower.merges else ())}
        )

    def tapped_layers(self, attending: Sequence[int]) -> list[int]:
        """The decoder layers, of those that have attention, whose attention goes through a tap."""
        if self.unmerges or self.sizes or self.contrast is not None:
            return list(attending)
        by_row = {*self.at_rows} & {*attending}
        return sorted({*self.observed, *self.observed_keys, *by_row, *self.at_attend, *self.at_cache})


@dataclass(frozen=True)
class Contrast:
    """How logits are contrasted.

    Attributes:
        strategy: the one that does.
        negative: what its negative prompt holds.
        plan: which strategy acts where in the lane of that prompt.
        rows: the batch rows that are contrasted, before beams repeat them; None if all are.
        prepared: what the strategy prepared.
    """

    strategy: Strategy
    negative: Negative
    plan: Plan
    rows: Rows | None
    prepared: Any = None


def _rehearsal(
    adapter: Adapter, found: Sequence[Sequence[Acting]], programs: Sequence[Sequence[Strategy]] | None
) -> Plan | None:
    """What runs before the prompt does: what strategies let run in their place, with the others; None if none does."""
    every = [one for program in found for one in program]
    if all(type(one.strategy).rehearsal is Strategy.rehearsal for one in every):
        return None
    facts = adapter.facts
    looks = {id(one): one.strategy.rehearsal(facts) for one in every}
    if not any(looks.values()):
        return None

    def rehearsed(program: Sequence[Acting]) -> tuple[Strategy, ...]:
        others = [one for one in program if looks[id(one)] is None and not one.needs.watches]
        kept = [
            part.strategy for one in others for part in (one, *one.modifiers) if part.strategy.stages() != ("logits",)
        ]
        return (*kept, *filter(None, (looks[id(one)] for one in program)))

    if programs is None:
        return Plan(adapter, rehearsed(found[0]))
    rows = {row: rehearsed(program) for program in found for one in program for row in one.rows or range(len(programs))}
    return Plan(adapter, programs=[rows.get(row, ()) for row in range(len(programs))])


def _contrast(adapter: Adapter, programs: Sequence[Sequence[Acting]], batch: int) -> Contrast | None:
    """How logits are contrasted where a strategy declares a negative prompt; None if none does.

    Args:
        programs: the strategies that act, by equal programs.
        batch: rows of the batch, where there are several programs.
    """
    found = [(one, one.negative, program) for program in programs for one in program if one.negative is not None]
    if not found:
        return None
    first, negative, program = found[0]
    if len(programs) == 1:
        return Contrast(first.strategy, negative, Plan(adapter, under(first, program)), None, first.prepared)
    others = {row: under(one, program) for one, _, program in found for row in one.rows or ()}
    plan = Plan(adapter, programs=[others.get(row, ()) for row in range(batch)])
    return Contrast(first.strategy, negative, plan, tuple(others), first.prepared)
