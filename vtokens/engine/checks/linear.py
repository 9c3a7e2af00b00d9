"""Decoder layers without attention, which keep a state of fixed size in place of keys: what has no place in them."""

from __future__ import annotations

from collections.abc import Sequence

from vtokens.adapters import Adapter
from vtokens.core.facts import Facts
from vtokens.strategies import Needs, Strategy
from vtokens.strategies.signals import Attention, LayerKeys


def check_linear(adapter: Adapter, active: Sequence[tuple[Strategy, Needs]]) -> None:
    """Raise `ValueError` if a strategy needs attention, or keys, of a decoder layer that has none.

    Dropping tokens before any layer is sound: a state then sees the shorter sequence from there on.

    Args:
        active: strategies that act on the model, and what they need.
    """
    if not any(spec.kind == "linear" for spec in adapter.specs):
        return
    facts = adapter.facts
    for strategy, needs in active:
        if needs.unmerges or needs.sizes:
            what = "at all of their positions" if needs.unmerges else "as several"
            raise ValueError(
                f"{strategy.name!r} lets attention see merged tokens {what}, and {len(facts.linear)} of the "
                f"{facts.depth} layers of a {type(adapter.model).__name__} have none, whose states would see each of "
                "them once: strategies that drop tokens are supported, and merging without that, as "
                "'dymu(unmerge=False)'"
            )
        observed = [one.layer for one in needs.signals if isinstance(one, Attention | LayerKeys)]
        for layer, what in (
            *((layer, "reads attention or keys of") for layer in observed),
            *((layer, "acts inside the attention of") for layer in needs.attend),
            *((layer, "drops cached keys of") for layer in needs.cache),
        ):
            if layer in facts.linear:
                raise ValueError(f"{strategy.name!r} {what} {_nearest(adapter, strategy, facts, layer)}")


def _nearest(adapter: Adapter, strategy: Strategy, facts: Facts, layer: int) -> str:
    """Which layers have what `layer` lacks, and the setting of the strategy that leads to the nearest one."""
    nearest, named = facts.nearest_attending(layer), getattr(strategy, "layer", None)
    way = f": layer={named + nearest - layer} leads there" if isinstance(named, int) else ""
    return (
        f"decoder layer {layer}, and that layer of a {type(adapter.model).__name__} has no attention, but keeps a "
        f"state in place of keys: layers {', '.join(map(str, facts.attending))} have attention, the nearest is "
        f"{nearest}{way}"
    )
