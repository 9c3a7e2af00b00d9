"""A program: strategies that run on a row of a batch, checked against one model and asked what they need there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from torch import Tensor

from vtokens.adapters import Adapter
from vtokens.engine.attention.rotary import check_rotary
from vtokens.engine.checks.modifiers import check_modifiers, with_modifiers
from vtokens.engine.checks.outside import check_stages
from vtokens.engine.checks.signals import check_signals
from vtokens.engine.checks.spread import check_spread
from vtokens.engine.checks.together import check_together
from vtokens.strategies import Needs, Strategy, format_spec, parse
from vtokens.strategies.base import needs_of
from vtokens.strategies.views.logits import Negative, Tokens

Rows = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Acting:
    """A strategy at the stages of one model.

    Attributes:
        strategy: the strategy.
        needs: what it answered when it was asked what it needs there.
        prepared: what it prepared there.
        negative: what the negative prompt holds that it compares logits with; None if it compares with none.
        rows: the batch rows that run it, before beams repeat them; None if all do.
        modifiers: the strategies that act on what this one selects, in the written order.
    """

    strategy: Strategy
    needs: Needs
    prepared: Any
    negative: Negative | None
    rows: Rows | None
    modifiers: tuple[Acting, ...] = ()


class Watching(Protocol):
    """A strategy that only watches, and wants to be told of new tokens by themselves."""

    def at_step(self, layer: int, query: Tensor, hidden: Tensor, output: Tensor) -> None:
        """See a new token: its query (B, H, 1, D), the state (B, 1, D_model) that entered the layer, head outputs
        (B, 1, H, D)."""


def active(adapter: Adapter, strategies: Sequence[Strategy], rows: Rows | None) -> list[Acting]:
    """The strategies that do something on some rows, in the written order.

    Raises:
        TypeError, ValueError: settings, or a combination, that cannot run on this model.
    """
    facts = adapter.facts
    check_stages(adapter, [strategy for strategy in strategies if not strategy._keeps_all])
    asked: list[tuple[Strategy, Needs]] = []
    for strategy in strategies:
        strategy.check(facts)
        needs = needs_of(strategy, facts)
        if needs.once and any(earlier.name == strategy.name for earlier, _ in asked):
            raise ValueError(f"{format_spec(strategies)!r} names {strategy.name!r} twice: once is allowed")
        asked.append((strategy, needs))
    # keep=1.0 asks for nothing to be dropped: such a strategy is not even consulted, nor what modifies it.
    pairs = list(zip(asked, check_modifiers(asked), strict=True))
    pairs = [(one, selecting) for one, selecting in pairs if not selecting._keeps_all]
    acting = [one for one, _ in pairs]
    check_together(adapter, acting)
    check_spread(adapter, acting)
    if any(needs.unmerges for _, needs in acting):
        check_rotary(adapter)
    check_signals(adapter, [signal for _, needs in acting for signal in needs.signals])
    found: list[Acting] = []
    for (strategy, needs), selecting in pairs:
        negative = strategy.negative(facts) if "logits" in strategy.stages() else None
        one = Acting(strategy, needs, strategy.prepare(facts), negative, rows)
        if selecting is not strategy:  # right behind what it modifies, or another modifier of that
            found[-1] = replace(found[-1], modifiers=(*found[-1].modifiers, one))
        else:
            found.append(one)
    return found


def same(one: Sequence[Strategy], other: Sequence[Strategy]) -> bool:
    """Whether two programs do the same. Equal settings may not: keep=1 is a count, and keep=1.0 all there is."""
    return one is other or (tuple(one) == tuple(other) and format_spec(one) == format_spec(other))


def alike(programs: Sequence[tuple[Strategy, ...]]) -> list[tuple[tuple[Strategy, ...], Rows | None]]:
    """Programs that do the same once each, with the rows that run them; None stands for all rows."""
    rows: list[tuple[tuple[Strategy, ...], list[int]]] = []
    for row, program in enumerate(programs):
        known = next((found for other, found in rows if same(other, program)), None)
        rows.append((program, [row])) if known is None else known.append(row)
    return [(program, tuple(found) if len(rows) > 1 else None) for program, found in rows]


def check_beside(programs: Sequence[Sequence[Acting]]) -> None:
    """Raise `ValueError` if rows of one batch cannot run different programs beside each other."""
    for program in programs:
        if any(one.needs.pixels or one.needs.encode or one.needs.unmerges for one in program):
            raise ValueError(
                f"{format_spec([one.strategy for one in program])!r} merges tokens, or shows the "
                "vision tower fewer, which cannot be done for some rows of a batch only: it runs before it is known "
                "which row a picture belongs to. Give it to all rows, or run them in batches of their own"
            )
    contrasts = [one.strategy for program in programs for one in program if one.negative is not None]
    if any(other != contrasts[0] for other in contrasts):
        names = " and ".join(sorted({repr(format_spec([contrast])) for contrast in contrasts}))
        raise ValueError(
            f"rows of one batch would be contrasted with different negative prompts, {names}: one contrast for the "
            "rows that have any is allowed"
        )


def under(contrast: Acting, program: Sequence[Acting]) -> tuple[Strategy, ...]:
    """The strategies under which the negative prompt of a contrast runs, of the program that the contrast is in.

    Raises:
        ValueError: the contrast was given one that cannot act there.
    """
    given = getattr(contrast.negative, "under", None)
    if given is None:
        # Strategies that only watch look at the answer alone, not at what it is contrasted with; and the negative
        # prompt is not said, so that nothing has to be done to its logits.
        others = [
            one.strategy
            for one in program
            if one is not contrast and not one.needs.watches and one.strategy.stages() != ("logits",)
        ]
        # A negative prompt that chooses its visual tokens itself is not pruned again.
        own = {"prompt", "layer"} if isinstance(contrast.negative, Tokens) else set()
        return tuple(with_modifiers(others, lambda one: bool(own & set(one.stages()))))
    for strategy in parse(given):
        if {"logits", "encode", "pixels"} & set(strategy.stages()):
            raise ValueError(
                f"branch={given!r}: {strategy.name!r} acts on {', '.join(strategy.stages())}, which a negative prompt "
                "has not to itself: strategies that act before or in the decoder are allowed, as 'random(keep=0.1)'"
            )
    return parse(given)


def by_layer(acting: Iterable[Acting], field: str) -> dict[int, list[Acting]]:
    """Decoder layer -> the strategies that name it in a field of their `Needs`, once each, in order."""
    found: dict[int, list[Acting]] = {}
    for one in acting:
        for index in dict.fromkeys(getattr(one.needs, field)):
            found.setdefault(index, []).append(one)
    return found


def in_attention(programs: Sequence[Sequence[Acting]]) -> list[Acting]:
    """The strategies of all programs, of each first the one that computes attention.

    Of several programs, what only watches comes last, once for all rows: it looks at what all others made of them.
    """
    found = [one for program in programs for one in sorted(program, key=lambda one: not one.needs.computes)]
    if len(programs) == 1:
        return found
    watching = {id(one.strategy): replace(one, rows=None) for one in found if one.needs.watches}
    return [*(one for one in found if not one.needs.watches), *watching.values()]


def watched(at_attend: Mapping[int, Sequence[Acting]]) -> dict[int, list[Watching]]:
    """The decoder layers in whose attention all strategies only watch, and have an `at_step`."""
    found: dict[int, list[Watching]] = {}
    for index, there in at_attend.items():
        if all(one.needs.watches and hasattr(one.strategy, "at_step") for one in there):
            watching: list[Any] = [one.strategy for one in there]
            found[index] = watching
    return found
