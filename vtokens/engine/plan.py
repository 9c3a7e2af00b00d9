"""Which strategy acts where on a given model, and what has to be watched for it."""

from __future__ import annotations

from collections.abc import Sequence

from vtokens.adapters import Adapter
from vtokens.strategies.base import Strategy
from vtokens.strategies.signals import Attention, Saliency


class Plan:
    """Strategies spread over the stages of one model.

    Attributes:
        at_prompt: those that act before the decoder, in the written order.
        at_layer: decoder layer -> those that act before it, in the written order.
        blocks: tower blocks to watch.
        rows: decoder layer -> the attention signals read from it.
    """

    def __init__(self, adapter: Adapter, strategies: Sequence[Strategy]) -> None:
        facts = adapter.facts
        for strategy in strategies:
            strategy.check(facts)
        # keep=1.0 asks for nothing to be dropped: such a strategy is not even consulted.
        active = [strategy for strategy in strategies if not strategy.keeps_all]
        self.at_prompt = [strategy for strategy in active if "prompt" in strategy.stages()]
        self.at_layer: dict[int, list[Strategy]] = {}
        self.rows: dict[int, set[Attention]] = {}
        blocks: set[int] = set()
        for strategy in active:
            for index in strategy.acts_before(facts):
                self.at_layer.setdefault(index, []).append(strategy)
            for signal in strategy.signals(facts):
                if isinstance(signal, Saliency):
                    blocks |= {block % facts.tower_depth for block in signal.blocks or (adapter.feature_block,)}
                else:
                    self.rows.setdefault(signal.layer, set()).add(signal)
        self.blocks = sorted(blocks)

    def __bool__(self) -> bool:
        return bool(self.at_prompt or self.at_layer)
