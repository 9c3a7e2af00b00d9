"""Attention in proportion to sizes: keys of tokens that stand for several count for as many.

softmax over n equal keys is softmax over one of them with log(n) added to its score. Sizes live in the cache layer, as
notes about its keys.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from vtokens.engine.attention.tap import AttentionCall
from vtokens.engine.state.cache_layers import memory_of, tracked, tracked_layers
from vtokens.engine.state.keymap import SIZE
from vtokens.engine.state.lane import Lane
from vtokens.strategies.views.memory import Memory


def sized(lane: Lane, index: int, attention: AttentionCall) -> AttentionCall:
    """An attention call of decoder layer `index` in which keys count for as many as their tokens stand for."""
    layer = tracked(lane.cache, index)
    older = memory_of(lane.cache, index)
    shut = None if layer is None else layer.keymap.shut_after(attention.key.shape[2])
    if shut is not None:  # far below any score, and within what half precision holds
        return replace(attention, bias=shut.to(attention.key.device) * (-3e4 * attention.scaling))
    if lane.bias is None and SIZE not in older.keys:
        return attention
    length, total = attention.query.shape[2], attention.key.shape[2]
    if lane.bias is None:  # a step: nothing to note, so that what the cache holds is only filled up
        values = older.keys[SIZE][0][:, : total - length]
        bias = torch.nn.functional.pad(values, (0, total - values.shape[1]))
        return replace(attention, bias=bias.to(attention.key.device))
    now = Memory({SIZE: (lane.bias, 0)})
    lane.notes.setdefault(index, Memory()).keys.update(now.keys)
    before = Memory({name: part for name, part in older.keys.items() if name == SIZE})
    bias = before.followed_by(now, total - length, length).marks(SIZE, total)
    return replace(attention, bias=bias.to(attention.key.device))


def holds_sizes(cache: Any) -> bool:
    """Whether a cache holds keys that count for several tokens, or that some heads do not attend to."""
    maps = [layer.keymap for layer in tracked_layers(cache)]
    return any(keymap.shut is not None or SIZE in keymap.memory.keys for keymap in maps)
