"""Which strategy acts where on a given model, and what has to be watched for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vtokens.adapters import Adapter
from vtokens.engine.unmerge import check_rotary
from vtokens.strategies import Strategy, format_spec
from vtokens.strategies.signals import Attention, Saliency


class Plan:
    """Strategies spread over the stages of one model.

    Attributes:
        at_encode: tower block, or round behind the tower -> the one that merges tokens there, and what it prepared.
        at_prompt: those that act before the decoder, in the written order.
        at_layer: decoder layer -> those that act before it, in the written order.
        at_attend: decoder layer -> those that act in its attention, each with what it prepared: first the one that
            computes it, if there is one, then the others in the written order.
        unmerges: attention is to see merged tokens at all of their positions.
        branch: one of them wants the prompt's text run without its pictures.
        blocks: tower blocks to watch.
        rows: decoder layer -> the attention signals read from it.
    """

    def __init__(self, adapter: Adapter, strategies: Sequence[Strategy]) -> None:
        facts = adapter.facts
        for number, strategy in enumerate(strategies):
            strategy.check(facts)
            if strategy.once and any(earlier.name == strategy.name for earlier in strategies[:number]):
                raise ValueError(f"{format_spec(strategies)!r} names {strategy.name!r} twice: once is allowed")
        # keep=1.0 asks for nothing to be dropped: such a strategy is not even consulted.
        active = [strategy for strategy in strategies if not strategy.keeps_all]
        self.at_encode: dict[int, tuple[Strategy, Any]] = {}
        self.at_prompt = [strategy for strategy in active if "prompt" in strategy.stages()]
        self.at_layer: dict[int, list[Strategy]] = {}
        self.at_attend: dict[int, list[tuple[Strategy, Any]]] = {}
        self.branch = any(strategy.wants_branch() for strategy in active)
        self.rows: dict[int, set[Attention]] = {}
        blocks: set[int] = set()
        merging = [strategy for strategy in active if strategy.encodes_in(facts)]
        if len(merging) > 1:
            raise ValueError(
                f"{format_spec(merging)!r} would merge the tokens of one vision tower twice: keep one of them"
            )
        if merging:
            adapter.check_merging({})
        computing = [strategy for strategy in active if strategy.computes]
        if len(computing) > 1:
            raise ValueError(f"{format_spec(computing)!r} would compute attention twice: keep one of them")
        self.unmerges = any(strategy.unmerges() for strategy in active)
        if self.unmerges:
            check_rotary(adapter)
        for strategy in active:
            prepared = strategy.prepare(facts)
            for index in strategy.encodes_in(facts):
                self.at_encode[index] = (strategy, prepared)
            for index in strategy.acts_before(facts):
                self.at_layer.setdefault(index, []).append(strategy)
            for index in strategy.attends_in(facts):
                self.at_attend.setdefault(index, []).append((strategy, prepared))
            for signal in strategy.signals(facts):
                if isinstance(signal, Saliency):
                    blocks |= {block % facts.tower_depth for block in signal.blocks or (adapter.feature_block,)}
                else:
                    self.rows.setdefault(signal.layer, set()).add(signal)
        for acting in self.at_attend.values():
            acting.sort(key=lambda pair: not pair[0].computes)
        self.blocks = sorted(blocks)

    def __bool__(self) -> bool:
        return bool(self.at_encode or self.at_prompt or self.at_layer or self.at_attend)
