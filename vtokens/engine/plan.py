"""Which strategy acts where on a given model, and what has to be observed for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from vtokens.adapters import Adapter
from vtokens.core.facts import Facts
from vtokens.engine.attention.rotary import check_rotary
from vtokens.engine.checks.outside import check_stages
from vtokens.engine.checks.signals import check_signals
from vtokens.engine.checks.together import Asked, check_mlps, check_together
from vtokens.strategies import Needs, Strategy, format_spec, parse
from vtokens.strategies.base import needs_of
from vtokens.strategies.signals import Attention, LayerKeys, Relevance, Saliency, TowerKeys
from vtokens.strategies.views.logits import Negative, Tokens
from vtokens.strategies.views.states import Place


@dataclass(frozen=True, eq=False)
class Acting:
    """A strategy at a stage of one model.

    Attributes:
        strategy: it.
        needs: what it answered when it was asked what it needs there.
        prepared: what it prepared there.
        rows: the batch rows that run it, before beams repeat them; None if all do.
    """

    strategy: Strategy
    needs: Needs
    prepared: Any
    rows: tuple[int, ...] | None = None


class Plan:
    """Strategies spread over the stages of one model; made once, when they are attached.

    Attributes:
        strategies: all of them, in the written order.
        at_encode: tower block, or round behind the tower -> the strategy that merges there, and what it prepared.
        at_prompt: the strategies that act before the decoder, in the written order.
        at_layer: decoder layer -> the strategies that act before it, in the written order.
        at_attend: decoder layer -> the strategies that act in its attention: first the one that computes it, if there
            is one, then the others in the written order.
        watched: decoder layer -> the strategies that act in its attention, where all of them only watch.
        at_cache: decoder layer -> the strategies that drop keys cached there.
        at_states: place and decoder layer -> the strategies that add to what leaves it, in the written order.
        unmerges: attention has to see merged tokens at all of their positions.
        compact: gaps in the numbering are closed.
        sizes: attention has to see tokens that count for several.
        text_lane: a strategy reads what the prompt's text gives without its pictures (`Heads.text_lane`).
        blocks: the tower blocks whose scores are read, ascending.
        observed: decoder layer -> the attention signals read from it.
        observed_keys: decoder layer -> the signals that are its keys.
        relevances: the signals that compare visual tokens with the text.
        key_blocks: the tower blocks whose keys are read.
        contrast: how logits are contrasted; None if they are not.
        at_logits: the strategies that change logits without a negative prompt, in the written order, behind a contrast.
        rooms: decoder layer -> the most slots that a static cache was given there, so that later ones get as many.
        programs: for each batch row, before beams repeat them, the strategies that run on it; None if all rows run the
            same (`programs.by_row`).

    Raises:
        TypeError, ValueError: settings, or a combination, that cannot run on this model.
    """

    def __init__(self, adapter: Adapter, strategies: Sequence[Strategy]) -> None:
        self.programs: tuple[tuple[Strategy, ...], ...] | None = None
        self.rooms: dict[int, int] = {}
        facts, self.strategies = adapter.facts, tuple(strategies)  # an adapter looks at its model each time it is asked
        check_stages(adapter, [strategy for strategy in self.strategies if not strategy._keeps_all])
        asked = _ask(facts, self.strategies)
        # keep=1.0 asks for nothing to be dropped: such a strategy is not even consulted.
        active = [(strategy, needs) for strategy, needs in asked if not strategy._keeps_all]
        check_together(adapter, active)
        self.unmerges = any(needs.unmerges for _, needs in active)
        if self.unmerges:
            check_rotary(adapter)
        self.compact = any(needs.compact for _, needs in active)
        self.sizes = any(needs.sizes for _, needs in active)
        self.text_lane = any(needs.text_lane for _, needs in active)
        acting = [Acting(strategy, needs, strategy.prepare(facts)) for strategy, needs in active]
        self.at_encode = {index: (one.strategy, one.prepared) for one in acting for index in one.needs.encode}
        self.at_prompt = [one for one in acting if "prompt" in one.strategy.stages()]
        self.at_layer = by_layer(acting, "layer")
        self.at_attend = by_layer(sorted(acting, key=lambda one: not one.needs.computes), "attend")
        self.watched = {} if self.unmerges else watched(self.at_attend)
        self.at_cache = by_layer(acting, "cache")
        self.at_states: dict[tuple[Place, int], list[Acting]] = {
            **{("layer", index): there for index, there in by_layer(acting, "states").items()},
            **{("mlp", index): there for index, there in by_layer(acting, "mlp").items()},
        }
        check_mlps(adapter, [(one.strategy, one.needs) for one in acting])
        signals = [signal for _, needs in active for signal in needs.signals]
        check_signals(adapter, signals)
        self.observed: dict[int, set[Attention]] = {}
        self.observed_keys: dict[int, set[LayerKeys]] = {}
        for signal in signals:
            if isinstance(signal, Attention):
                self.observed.setdefault(signal.layer, set()).add(signal)
            elif isinstance(signal, LayerKeys):
                self.observed_keys.setdefault(signal.layer, set()).add(signal)
        self.relevances = {signal for signal in signals if isinstance(signal, Relevance)}
        self.contrast = _contrast(adapter, active)
        self.at_logits = [
            one for one in acting if "logits" in one.strategy.stages() and one.strategy.negative(facts) is None
        ]
        under = None if self.contrast is None else self.contrast.plan
        depth = facts.tower_depth
        scored = [one for one in signals if isinstance(one, Saliency)]
        keyed = [one for one in signals if isinstance(one, TowerKeys)]
        feature = adapter.tower.feature_block if scored or keyed else 0
        blocks = {block % depth for one in scored for block in one.blocks or (feature,)}
        self.blocks: list[int] = sorted(blocks.union([] if under is None else under.blocks))
        keys = {feature if one.block is None else one.block % depth for one in keyed}
        self.key_blocks: set[int] = keys.union(() if under is None else under.key_blocks)

    def __bool__(self) -> bool:
        inside = self.at_encode or self.at_prompt or self.at_layer or self.at_attend or self.at_states or self.at_cache
        return bool(inside or self.contrast or self.at_logits)

    @property
    def light(self) -> bool:
        """Whether all of it is over once a prompt was read: steps have nothing to do but to see fewer keys."""
        inside = self.at_attend or self.at_states or self.at_cache or self.unmerges
        return not (inside or self.contrast or self.at_logits)

    def towers(self, adapter: Adapter) -> list[int]:
        """The tower blocks whose attention is stood in for."""
        # From the first merge on, every block has to know how many patches a token stands for.
        merging = range(min(self.at_encode), len(adapter.tower.blocks)) if self.at_encode else ()
        return sorted({*self.blocks, *self.key_blocks, *(merging if adapter.tower.merges else ())})

    def tapped(self, depth: int) -> list[int]:
        """The decoder layers, of `depth`, whose attention is stood in for."""
        if self.unmerges or self.sizes or self.contrast is not None:
            return list(range(depth))
        return sorted({*self.observed, *self.observed_keys, *self.at_attend, *self.at_cache})


def by_layer(acting: Sequence[Acting], field: str) -> dict[int, list[Acting]]:
    """Decoder layer -> the strategies that name it in a field of their `Needs`, in order."""
    found: dict[int, list[Acting]] = {}
    for one in acting:
        for index in getattr(one.needs, field):
            found.setdefault(index, []).append(one)
    return found


class Watching(Protocol):
    """A strategy that only watches, and wants to be told of new tokens by themselves."""

    def at_step(self, layer: int, query: Tensor, hidden: Tensor, output: Tensor) -> None:
        """See a new token: its query (B, H, 1, D), the state (B, 1, D_model) that entered the layer, head outputs
        (B, 1, H, D)."""


def watched(at_attend: Mapping[int, Sequence[Acting]]) -> dict[int, list[Watching]]:
    """The decoder layers in whose attention all strategies only watch, and have an `at_step`."""
    found: dict[int, list[Watching]] = {}
    for index, there in at_attend.items():
        if all(one.needs.watches and hasattr(one.strategy, "at_step") for one in there):
            watching: list[Any] = [one.strategy for one in there]
            found[index] = watching
    return found


def _ask(facts: Facts, strategies: Sequence[Strategy]) -> Asked:
    """Check each strategy's settings against the model, and ask it what it needs there."""
    asked: list[tuple[Strategy, Needs]] = []
    for strategy in strategies:
        strategy.check(facts)
        needs = needs_of(strategy, facts)
        if needs.once and any(earlier.name == strategy.name for earlier, _ in asked):
            raise ValueError(f"{format_spec(strategies)!r} names {strategy.name!r} twice: once is allowed")
        asked.append((strategy, needs))
    return asked


@dataclass(frozen=True)
class Contrast:
    """How logits are contrasted.

    Attributes:
        strategy: the one that does.
        kind: what its negative prompt holds.
        plan: which strategy acts where in the lane of that prompt.
        rows: as in `Acting`.
    """

    strategy: Strategy
    kind: Negative
    plan: Plan
    rows: tuple[int, ...] | None = None


def _contrast(adapter: Adapter, active: Asked) -> Contrast | None:
    """How the first strategy that declares a negative prompt contrasts; None if none does."""
    for strategy in (strategy for strategy, _ in active if "logits" in strategy.stages()):
        kind = strategy.negative(adapter.facts)
        if kind is not None:
            return Contrast(strategy, kind, Plan(adapter, _under(strategy, kind, active)))
    return None


def _under(contrast: Strategy, kind: Negative, active: Asked) -> Sequence[Strategy]:
    """The strategies under which the negative prompt runs.

    Raises:
        ValueError: it was given one that cannot act there.
    """
    under = getattr(kind, "under", None)
    if under is None:
        # Strategies that only watch look at the answer alone, not at what it is contrasted with.
        # Nor is it said, so that nothing has to be done to its logits.
        others = [
            strategy
            for strategy, needs in active
            if strategy is not contrast and not needs.watches and strategy.stages() != ("logits",)
        ]
        # A negative prompt that chooses its visual tokens itself is not pruned again.
        own = {"prompt", "layer"} if isinstance(kind, Tokens) else set()
        return [strategy for strategy in others if not own & set(strategy.stages())]
    given = parse(under)
    for strategy in given:
        if {"logits", "encode"} & set(strategy.stages()):
            raise ValueError(
                f"branch={under!r}: {strategy.name!r} acts on {', '.join(strategy.stages())}, which a negative prompt "
                "has not to itself: strategies that act before or in the decoder are allowed, as 'random(keep=0.1)'"
            )
    return given
