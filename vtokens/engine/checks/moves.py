"""Pictures that change places in attention: decoders, and strategies beside it, for which that is not worked out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vtokens.adapters import Adapter
from vtokens.engine.attention.rotary import check_rotary
from vtokens.strategies import Needs, Strategy

_STRETCHED = ("dynamic", "longrope")
"""Rotations whose angles depend on how long the sequence is, so that no angle stands for a distance."""


def check_moves(adapter: Adapter, active: Sequence[tuple[Strategy, Needs]]) -> None:
    """Raise `ValueError` if pictures cannot change places in a decoder, or beside another strategy.

    A picture stands elsewhere for a row by turning that row, which takes attention to depend on positions by rotary
    angles alone, the same for a distance wherever it begins.

    Args:
        active: strategies that act on the model, and what they need.
    """
    moving = next((strategy for strategy, needs in active if needs.moves), None)
    if moving is None:
        return
    who, model = repr(moving.name), type(adapter.model).__name__
    near = "'sofa' lets pictures see each other both ways, and moves none"
    if adapter.anatomy.visibility is not None:
        raise ValueError(
            f"{who} orders pictures that see what comes before them, and those of a {model} see themselves both ways: "
            "use a strategy that leaves attention to the model"
        )
    kinds = sorted({spec.kind for spec in adapter.specs} - {"full"})
    if kinds:
        raise ValueError(
            f"{who} takes the order of pictures out of every layer, and a {model} has layers of kind {kinds[0]!r}, "
            f"to which it goes on mattering: decoders that attend to all that was before are supported; {near}"
        )
    for parameters in _ropes(adapter):
        kind = parameters.get("rope_type", parameters.get("type", "default"))
        if kind in _STRETCHED:
            raise ValueError(
                f"{who} turns queries by distances, and the rotary angles of a {model} (rope_type={kind!r}) change "
                f"with the length of the sequence: other rotations are supported; {near}"
            )
        if parameters.get("llama_4_scaling_beta"):
            raise ValueError(
                f"{who} lets pictures stand elsewhere, and a {model} scales queries by their positions too "
                f"(llama_4_scaling_beta): decoders that turn them alone are supported; {near}"
            )
    check_rotary(adapter, f"what {who} moves", near)
    for strategy, needs in active:
        what = (
            "shows attention merged tokens at several positions" if needs.unmerges
            else "numbers positions anew (positions='original' leaves them)" if needs.compact
            else "lets visual tokens pass layers without queries" if needs.rows
            else "drops keys, of each head its own" if needs.cache
            else ""
        )  # fmt: skip
        if what:
            raise ValueError(f"{strategy.name!r} {what}, and {who} moves pictures by their positions: keep one of them")


def _ropes(adapter: Adapter) -> list[Mapping[str, Any]]:
    """What the decoder's config says of its rotary embeddings, of each type of layer."""
    config: Any = adapter.language_model.config
    given = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    inner = [value for value in given.values() if isinstance(value, Mapping)]
    return inner or [given]
