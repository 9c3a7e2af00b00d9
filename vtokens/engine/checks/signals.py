"""Whether a model can give the signals that strategies ask for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import get_args

from torch import nn

from vtokens.adapters import Adapter
from vtokens.adapters.decoder import mlp_of
from vtokens.core.errors import unknown
from vtokens.engine.attention.rotary import check_rotary
from vtokens.strategies.checks import check_layer
from vtokens.strategies.signals import (
    Attention,
    Change,
    Entering,
    Heads,
    Neurons,
    OfTower,
    Part,
    Pool,
    QueryRows,
    Relevance,
    Saliency,
    Sensitivity,
    Signal,
    Text,
    Voters,
)


def check_signals(adapter: Adapter, signals: Sequence[Signal]) -> None:
    """Raise unless the model has what each signal names.

    Raises:
        TypeError: a layer or block that is no whole number.
        ValueError: one that is out of range, unknown rows or text, or a rotary embedding that cannot be undone.
    """
    depth, tower = len(adapter.layers), len(adapter.tower.blocks) if signals else 0
    for signal in signals:
        name = type(signal).__name__
        if isinstance(signal, OfTower):
            blocks = signal.blocks or () if isinstance(signal, Saliency) else (signal.block,)
            for block in blocks:
                if block is not None:
                    check_layer(f"the block of {name}", block, tower, first=-tower)
            if isinstance(signal, Saliency) and signal.rows not in get_args(Voters):
                raise unknown("rows", signal.rows, get_args(Voters))
            if isinstance(signal, Saliency) and signal.heads not in get_args(Heads):
                raise unknown("heads", signal.heads, get_args(Heads))
        elif isinstance(signal, Sensitivity):
            if signal.directions < 1 or not 0 < signal.step < math.inf:
                raise ValueError(f"{signal} is not allowed: at least one direction, and a finite step above 0, are")
        elif isinstance(signal, Relevance):
            if signal.text not in get_args(Text):
                raise unknown("text", signal.text, get_args(Text))
        else:
            check_layer(f"the layer of {name}", signal.layer, depth)
            if isinstance(signal, Neurons):
                _check_neurons(signal)
                continue
            if isinstance(signal, Attention) and signal.rows not in get_args(QueryRows):
                raise unknown("rows", signal.rows, get_args(QueryRows))
            if isinstance(signal, Attention) and signal.pool not in get_args(Pool):
                raise unknown("pool", signal.pool, get_args(Pool))
            if isinstance(signal, Attention) and signal.level:
                _check_level(adapter, signal)
            if isinstance(signal, Change):
                _check_change(adapter, signal)
            if not isinstance(signal, Entering | Change) and not signal.rotary:
                check_rotary(adapter, f"what {name}(rotary=False) undoes", "ask for it with rotary=True")


def _check_neurons(signal: Neurons) -> None:
    reference = signal.reference
    if isinstance(reference, bool) or not isinstance(reference, int) or reference > -1:
        raise ValueError(f"reference={reference!r} is no position before the end of a prompt: -1 and below is allowed")


def _check_level(adapter: Adapter, signal: Attention) -> None:
    if signal.pool != "each" or not signal.rotary:
        raise ValueError(
            f"{signal} divides by the effect of the rotary embedding, in each head: pool='each' is allowed"
        )
    check_rotary(adapter, "what Attention(level=True) divides by", "ask for it with level=False")


def _check_change(adapter: Adapter, signal: Change) -> None:
    """Raise `ValueError` unless a decoder layer has the part whose work is asked for."""
    if signal.part not in get_args(Part):
        raise unknown("part", signal.part, get_args(Part))
    layer = adapter.layers[signal.layer]
    part = getattr(layer, "self_attn", None) if signal.part == "attention" else mlp_of(layer)
    if not isinstance(part, nn.Module):
        raise ValueError(
            f"{signal} asks what the {signal.part} of decoder layer {signal.layer} does, and a {type(layer).__name__} "
            f"has no `{'self_attn' if signal.part == 'attention' else 'mlp'}`"
        )
