"""Which strategy acts where on a given model, and what has to be watched for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vtokens.adapters import Adapter
from vtokens.engine.rotary import check_rotary
from vtokens.strategies import Strategy, format_spec, parse
from vtokens.strategies.signals import Attention, Saliency
from vtokens.strategies.views.logits import Negative, Tokens


class Plan:
    """Strategies spread over the stages of one model.

    Attributes:
        strategies: all of them, in the written order.
        at_encode: tower block, or round behind the tower -> the one that merges tokens there, and what it prepared.
        at_prompt: those that act before the decoder, in the written order.
        at_layer: decoder layer -> those that act before it, in the written order.
        at_attend: decoder layer -> those that act in its attention, each with what it prepared: first the one that
            computes it, if there is one, then the others in the written order.
        watched: decoder layer -> those that act in its attention, where all of them only look.
        unmerges: attention is to see merged tokens at all of their positions.
        branch: one of them wants the prompt's text run without its pictures.
        blocks: tower blocks to watch.
        rows: decoder layer -> the attention signals read from it.
        contrast: the one that contrasts logits; None if none does.
        negative_kind: what the prompt of its negative branch holds.
        negative: which strategy acts where in that branch.
    """

    def __init__(self, adapter: Adapter, strategies: Sequence[Strategy]) -> None:
        facts, self.strategies = adapter.facts, tuple(strategies)
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
        self.blocks: list[int] = []
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
        self.watched = {
            index: [strategy for strategy, _ in acting]
            for index, acting in self.at_attend.items()
            if not self.unmerges and all(strategy.watches for strategy, _ in acting)
        }
        contrasting = [strategy for strategy in active if "logits" in strategy.stages()]
        if len(contrasting) > 1:
            raise ValueError(f"{format_spec(contrasting)!r} would contrast logits twice: keep one of them")
        self.contrast = contrasting[0] if contrasting else None
        self.negative_kind: Negative | None = None
        self.negative: Plan | None = None
        if self.contrast is not None:
            if adapter.model is adapter.multimodal:
                raise ValueError(
                    f"{self.contrast.name!r} changes logits, and a {type(adapter.model).__name__} makes none: attach "
                    "it to the ...ForConditionalGeneration"
                )
            self.negative_kind = self.contrast.negative(facts)
            self.negative = Plan(adapter, _under(self.contrast, self.negative_kind, active))
            blocks |= set(self.negative.blocks)
        self.blocks = sorted(blocks)

    def __bool__(self) -> bool:
        return bool(self.at_encode or self.at_prompt or self.at_layer or self.at_attend or self.contrast)

    def towers(self, adapter: Adapter) -> list[int]:
        """The tower blocks whose attention is stood in for."""
        # From the first merge on, every block has to know how much a token stands for.
        merging = range(min(self.at_encode), len(adapter.tower_attentions)) if self.at_encode else ()
        return sorted({*self.blocks, *(merging if adapter.merge_points else ())})

    def tapped(self, depth: int) -> list[int]:
        """The decoder layers, of `depth`, whose attention is stood in for."""
        if self.unmerges or self.contrast is not None:
            return list(range(depth))
        return sorted({*self.rows, *self.at_attend})


def _under(contrast: Strategy, kind: Negative, active: Sequence[Strategy]) -> Sequence[Strategy]:
    """What the negative branch runs under.

    Raises:
        ValueError: it was given what cannot run in a branch.
    """
    under = getattr(kind, "under", None)
    if under is None:
        # Who only looks on is to see the answer, not what it is held against.
        others = [strategy for strategy in active if strategy is not contrast and not strategy.watches]
        # A branch that chooses its tokens itself is not pruned again.
        own = ("prompt", "layer") if isinstance(kind, Tokens) else ()
        return [strategy for strategy in others if not set(own) & set(strategy.stages())]
    given = parse(under)
    for strategy in given:
        if {"logits", "encode"} & set(strategy.stages()):
            raise ValueError(
                f"branch={under!r}: {strategy.name!r} acts on {', '.join(strategy.stages())}, which a negative branch "
                "has not to itself: strategies that act before or in the decoder are allowed, as 'random(keep=0.1)'"
            )
    return given
