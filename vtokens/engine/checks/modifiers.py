"""Strategies that act on what the one written before them selects: whether that one selects anything."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from vtokens.strategies import Needs, Strategy, format_spec


def check_modifiers(asked: Sequence[tuple[Strategy, Needs]]) -> list[Strategy]:
    """For each strategy the one that selects: itself, or the one that it modifies; written first, it may act alone.

    Args:
        asked: strategies of one program in the written order, and what they need.

    Raises:
        ValueError: none stands there, or one that selects no tokens before or in the decoder, unmerges them in
            attention, or says itself what they count for while the modifier does too.
    """
    selecting: list[Strategy] = []
    target: tuple[Strategy, Needs] | None = None
    for strategy, needs in asked:
        if not strategy.modifies or (target is None and strategy.alone is not None):
            target = strategy, needs
            selecting.append(strategy)
            continue
        name, whole = strategy.name, format_spec([one for one, _ in asked])
        if target is None:
            raise ValueError(
                f"{whole!r}: {name!r} without keep acts on what the strategy written before it drops, and there is "
                f"none: write it behind a pruner, as 'cls(keep=0.1)+{name}'"
            )
        first, theirs = target
        why = ""
        if not {"prompt", "layer"} & set(first.stages()):
            why = "drops no tokens before or in the decoder"
        elif theirs.unmerges:
            why = "lets attention see what it merges at all of its positions already"
        elif theirs.sizes and needs.sizes:
            why = "says itself what the tokens that it keeps count for"
        if why:
            raise ValueError(
                f"{whole!r}: {name!r} acts on what the strategy written right before it drops, and {first.name!r} "
                f"{why}: write it right behind a pruner, as 'cls(keep=0.1)+{name}'"
            )
        selecting.append(first)
    return selecting


def with_modifiers(strategies: Iterable[Strategy], leave: Callable[[Strategy], bool]) -> list[Strategy]:
    """Strategies of one program without those that `leave` names, and without the modifiers behind these."""
    found: list[Strategy] = []
    gone = False
    for strategy in strategies:
        gone = leave(strategy) or (gone and strategy.modifies)
        if not gone:
            found.append(strategy)
    return found
