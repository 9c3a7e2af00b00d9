"""Capped attention scores (Gemma 2): s becomes c * tanh(s / c), which what is added to scores cannot pass through."""

from __future__ import annotations

from collections.abc import Sequence

from vtokens.adapters import Adapter
from vtokens.adapters.decoder import inside
from vtokens.strategies import Needs, Strategy


def check_capped(adapter: Adapter, active: Sequence[tuple[Strategy, Needs]]) -> None:
    """Raise `ValueError` if a strategy adds to attention scores, or computes them, in a decoder that caps them.

    Dropping tokens leaves attention to the model. What reads rows of attention, or weighs groups of keys, is told of
    the cap (`attention_colmean`, `Heads.softcap`); nothing else is.

    Args:
        active: strategies that act on it, and what they need.
    """
    whole = "reads attention over merged tokens, or computes it in the model's place"
    for strategy, needs in active:
        what = whole if needs.unmerges or needs.computes else "lets keys count for more or less" if needs.sizes else ""
        what = what or ("drops cached keys, of each head its own" if needs.cache else "")
        cap = _cap(adapter) if what else None
        if cap is not None:
            raise ValueError(
                f"{strategy.name!r} {what}, and the decoder of a {type(adapter.model).__name__} caps attention scores "
                f"(attn_logit_softcapping={cap}), which that does not know of: use a strategy that drops tokens"
            )


def _cap(adapter: Adapter) -> float | None:
    """The cap of the decoder's attention scores; None if it has none."""
    modules = (inside(getattr(layer, "self_attn", None)) for layer in adapter.layers)
    caps = (getattr(module, "attn_logit_softcapping", None) for module in modules)
    return next((cap for cap in caps if cap is not None), None)
