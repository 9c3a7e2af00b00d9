"""Virtual unmerging: attention over all positions of merged tokens, while layer and cache hold one row for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vtokens.engine.attention import Attention
from vtokens.engine.cache import held
from vtokens.engine.call import Call
from vtokens.engine.copies import Copies
from vtokens.engine.fold import Fold
from vtokens.engine.padding import seen_padding
from vtokens.engine.reduction import gather, spread
from vtokens.kernels import unfold, unmerge_attention, unmerge_rows

Attend = Callable[[Attention], tuple[Tensor, Any]]


def unturned(embeddings: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Position embeddings that leave queries and keys as they are."""
    cos, sin = embeddings
    return torch.ones_like(cos), torch.zeros_like(sin)


def attend(call: Call, index: int, attention: Attention, inner: Attend, states: bool) -> tuple[Tensor, Any]:
    """Run an attention call of decoder layer `index` in the sequence of all positions.

    Args:
        call: the pass.
        index: decoder layer.
        attention: its queries, keys and values are those of unique rows, not rotated where merged tokens are among
            them; its mask is for all positions.
        inner: runs attention, and what strategies do about it, in that sequence.
        states: whether `inner` reads the states that entered the layer.
    """
    fold, cached = call.folds.get(index), _cached(call, index)
    if fold is None and cached is None:
        return inner(attention)
    if fold is None and cached is not None and not states and call.layout is None and attention.query.shape[2] == 1:
        return _decode(call, index, attention, *cached), None
    past = attention.key.shape[2] - attention.query.shape[2]
    key, value = (part[:, :, :past] for part in (attention.key, attention.value))
    new_key, new_value = (part[:, :, past:] for part in (attention.key, attention.value))
    if cached is not None:
        key, value = _unfold_cached(call, *cached, key, value)

    def run(query: Tensor, new_key: Tensor, new_value: Tensor) -> tuple[Tensor, Any]:
        if past:
            new_key, new_value = torch.cat([key, new_key], 2), torch.cat([value, new_value], 2)
        return inner(replace(attention, query=query, key=new_key, value=new_value))

    if fold is None:
        return run(attention.query, new_key, new_value)
    device = attention.query.device
    member, (cos, sin) = fold.member.to(device), _angles(call, fold.view.group, attention.query, fold.positions)
    with _unfolded(call, fold, states):
        output = unmerge_attention(
            attention.query, new_key, new_value, member, cos, sin, lambda *parts: run(*parts)[0].transpose(1, 2)
        )
    return output.transpose(1, 2).contiguous(), None


def _cached(call: Call, index: int) -> tuple[Copies, int] | None:
    """What the layer's cache holds merged, and in how many rows."""
    layer = held(call.cache, index)
    return None if layer is None or layer.prefix.copies is None else (layer.prefix.copies, layer.prefix.stored)


def _decode(call: Call, index: int, attention: Attention, copies: Copies, stored: int) -> Tensor:
    """(B, 1, H, D): the common case of one new token and nobody else looking, without copies of the values."""
    key = attention.key
    behind = key.shape[2] - stored
    name = ("decode", copies.group, behind, key.device)
    if name not in call.scratch:
        member, cos, sin = _turns(call, copies, key)
        angle, half = torch.complex(cos.float(), sin.float()), cos.shape[-1] // 2
        rows = torch.arange(stored, key.shape[2], device=key.device).expand(len(key), -1)
        valid = seen_padding(call, index, copies.length + behind - 1, 1)
        call.scratch[name] = (
            torch.cat([member, rows], 1),
            torch.nn.functional.pad(angle[..., :half], (0, 0, 0, behind), value=1),
            None if valid is None else valid.to(key.device),
        )
    member, angle, valid = call.scratch[name]
    output = unmerge_rows(attention.query, key, attention.value, member, angle, attention.scaling, valid)
    return output.transpose(1, 2)


def _turns(call: Call, copies: Copies, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(member, cos, sin) of cached rows at all their positions: those stored turned are not turned again."""
    key = ("turns", copies.group, like.device)
    if key not in call.scratch:
        cos, sin = call.adapter.rotary(like, copies.positions.transpose(0, 1).to(like.device))
        turned = copies.turned.to(like.device)[..., None]
        member = copies.member.to(like.device).clamp(min=0)
        call.scratch[key] = (member, torch.where(turned, 1, cos), torch.where(turned, 0, sin))
    return call.scratch[key]


def _unfold_cached(call: Call, copies: Copies, stored: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Cached keys and values at all their positions, the first `stored` rows being those to unfold."""
    member, cos, sin = _turns(call, copies, key)
    first = unfold(key[:, :, :stored], member, cos, sin)
    return (
        torch.cat([first, key[:, :, stored:]], 2),
        torch.cat([unfold(value[:, :, :stored], member), value[:, :, stored:]], 2),
    )


def _angles(call: Call, group: int, like: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """(cos, sin), each (B, N, D), of int64 positions (C, B, N); made once for layers that share `group`."""
    key = ("angles", group, like.device)
    if key not in call.scratch:
        call.scratch[key] = call.adapter.rotary(like, positions.to(like.device))
    return call.scratch[key]


@contextmanager
def _unfolded(call: Call, fold: Fold, states: bool) -> Iterator[None]:
    """Let all that looks at `call` see the sequence of all positions."""
    view, layout, hidden, received = call.view, call.layout, call.hidden, call.received
    call.view, call.layout, call.received = fold.view, fold.view.layout, {}
    if states and hidden is not None:
        call.hidden = gather(hidden, fold.member.clamp(min=0), 1)
    try:
        yield
    finally:
        found = {key: call.attention(*key) for key in call.received}
        call.view, call.layout, call.hidden = view, layout, hidden
        # What all positions of a token received, the token received.
        call.received = received | {key: spread(_sum(part, fold), view, call.length) for key, part in found.items()}


def _sum(values: Tensor, fold: Fold) -> Tensor:
    """(B, N) -> (B, W), summed over the positions at which each row stands."""
    member = fold.member.to(values.device)
    total = values.new_zeros(len(values), fold.rows)
    return total.scatter_add(1, member.clamp(min=0), torch.where(member < 0, 0, values))
