"""Decoder layers that attend to keys of earlier ones (Gemma 4's small models): what can be done in front of them."""

from __future__ import annotations

from collections.abc import Sequence

from vtokens.adapters import Adapter
from vtokens.strategies import Attention, LayerKeys, Needs, Strategy


def check_shared_keys(adapter: Adapter, active: Sequence[tuple[Strategy, Needs]]) -> None:
    """Raise `ValueError` if a strategy does more than drop tokens before the first layer whose keys others attend to.

    Dropping there is sound: layers behind it get the states that are left, and keys of as many. Later they would not.

    Args:
        active: strategies that act on it, and what they need.
    """
    specs = adapter.specs
    first = next((index for index, spec in enumerate(specs) if spec.slot != index), None)
    if first is None:
        return
    last = min(spec.slot for spec in specs[first:])
    for strategy, needs in active:
        behind = [index for index in needs.layer if index > last]
        reads = [one.layer for one in needs.signals if isinstance(one, Attention | LayerKeys) and one.layer >= first]
        other = needs.rows or needs.attend or needs.states or needs.mlp or needs.cache or needs.text_lane
        other = other or needs.unmerges or needs.sizes or needs.compact or "logits" in strategy.stages()
        why = None
        if behind:
            why = f"drops tokens before layer {behind[0]}: 1 to {last} are allowed"
        elif reads:
            why = f"reads attention of layer {reads[0]}: 0 to {first - 1} are allowed"
        elif other:
            why = "does more than drop tokens: pruners are allowed"
        if why is not None:
            raise ValueError(
                f"the layers of a {type(adapter.model).__name__} from {first} on attend to keys of layers {last} to "
                f"{first - 1} (num_kv_shared_layers), and {strategy.name!r} {why}"
            )
