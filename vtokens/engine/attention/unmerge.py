"""Virtual unmerging: attention over all positions of merged tokens, while layer and cache hold one column for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vtokens.engine.attention.key_padding import seen_padding
from vtokens.engine.attention.tap import AttentionCall
from vtokens.engine.state.cache_layers import tracked
from vtokens.engine.state.folds import Copies, Fold
from vtokens.engine.state.lane import Lane
from vtokens.engine.state.view import gather, spread
from vtokens.kernels import unfold, unmerge_attention, unmerge_rows
from vtokens.strategies.signals import Attention

Attend = Callable[[Lane, AttentionCall], tuple[Tensor, Any]]


def unturned(embeddings: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Position embeddings that leave queries and keys as they are."""
    cos, sin = embeddings
    return torch.ones_like(cos), torch.zeros_like(sin)


def unmerged(lane: Lane, index: int, attention: AttentionCall, inner: Attend, states: bool) -> tuple[Tensor, Any]:
    """Run an attention call of decoder layer `index` as if merged tokens stood at all of their positions.

    Unique columns are copied to these positions and rotated there, `inner` is run on that sequence, and its outputs are
    averaged back to unique columns.

    Args:
        attention: its queries, keys and values are those of unique columns, not rotated where merged tokens are among
            them; its mask is for all positions.
        inner: runs attention, and what strategies do about it, in that sequence.
        states: whether `inner` reads the states that entered the layer.
    """
    fold, cached = lane.folds.get(index), _cached(lane, index)
    if fold is None and cached is None:
        return inner(lane, attention)
    if fold is None and cached is not None and not states and lane.pictures is None and attention.query.shape[2] == 1:
        return _decode(lane, index, attention, *cached), None
    past = attention.key.shape[2] - attention.query.shape[2]
    key, value = (part[:, :, :past] for part in (attention.key, attention.value))
    new_key, new_value = (part[:, :, past:] for part in (attention.key, attention.value))
    if cached is not None:
        key, value = _unfold_cached(lane, index, *cached, key, value)

    def run(there: Lane, query: Tensor, new_key: Tensor, new_value: Tensor) -> tuple[Tensor, Any]:
        if past:
            new_key, new_value = torch.cat([key, new_key], 2), torch.cat([value, new_value], 2)
        return inner(there, replace(attention, query=query, key=new_key, value=new_value))

    if fold is None:
        return run(lane, attention.query, new_key, new_value)
    device = attention.query.device
    member, (cos, sin) = fold.member.to(device), _angles(lane, index, fold, attention.query)
    there = lane.seeing(fold.view, gather(lane.hidden, fold.member.clamp(min=0), 1) if states else lane.hidden)
    there.angles = (cos, sin)
    output = unmerge_attention(
        attention.query, new_key, new_value, member, cos, sin, lambda *parts: run(there, *parts)[0].transpose(1, 2)
    )
    if lane.pictures is not None and there.pictures is not None:
        # What all positions of a token received, the token received; the most, if that is asked for.
        there.pictures.observed.update({signal: work() for signal, work in there.pictures.pending.items()})
        for signal, part in there.pictures.observed.items():
            positions = gather(part, fold.view.index, 1)
            most = isinstance(signal, Attention) and signal.pool == "max"
            lane.pictures.observed[signal] = spread(_over_members(positions, fold, most), lane.view, lane.length)
    return output.transpose(1, 2).contiguous(), None


def _cached(lane: Lane, index: int) -> tuple[Copies, int] | None:
    """What the layer's cache holds merged, and in how many keys."""
    layer = tracked(lane.cache, index)
    return None if layer is None or layer.keymap.copies is None else (layer.keymap.copies, layer.keymap.given)


def _decode(lane: Lane, index: int, attention: AttentionCall, copies: Copies, given: int) -> Tensor:
    """(B, 1, H, D): the common case of one new token and nobody else looking, without copies of the values."""
    key = attention.key
    behind = key.shape[2] - given

    def make() -> tuple[Tensor, Tensor, Tensor | None]:
        member, cos, sin = _turns(lane, index, copies, key)
        angle, half = torch.complex(cos.float(), sin.float()), cos.shape[-1] // 2
        keys = torch.arange(given, key.shape[2], device=key.device).expand(len(key), -1)
        valid = seen_padding(lane, index, copies.length + behind - 1, 1, None, key.device)
        return (
            torch.cat([member, keys], 1),
            torch.nn.functional.pad(angle[..., :half], (0, 0, 0, behind), value=1),
            valid,
        )

    member, angle, valid = lane.once(("decode", copies.origin, behind, lane.specs[index].rope, key.device), make)
    output = unmerge_rows(attention.query, key, attention.value, member, angle, attention.scaling, valid)
    return output.transpose(1, 2)


def _turns(lane: Lane, index: int, copies: Copies, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(member, cos, sin) of cached keys at all their positions: those stored turned are not turned again."""
    rope = lane.specs[index].rope

    def make() -> tuple[Tensor, Tensor, Tensor]:
        cos, sin = lane.adapter.rotary(like, copies.positions.transpose(0, 1).to(like.device), rope)
        turned = copies.turned.to(like.device)[..., None]
        member = copies.member.to(like.device).clamp(min=0)
        return member, torch.where(turned, 1, cos), torch.where(turned, 0, sin)

    return lane.once(("turns", copies.origin, rope, like.device), make)


def _unfold_cached(
    lane: Lane, index: int, copies: Copies, given: int, key: Tensor, value: Tensor
) -> tuple[Tensor, Tensor]:
    """Cached keys and values at all their positions, the first `given` ones being those to unfold."""
    member, cos, sin = _turns(lane, index, copies, key)
    first = unfold(key[:, :, :given], member, cos, sin)
    return (
        torch.cat([first, key[:, :, given:]], 2),
        torch.cat([unfold(value[:, :, :given], member), value[:, :, given:]], 2),
    )


def _angles(lane: Lane, index: int, fold: Fold, like: Tensor) -> tuple[Tensor, Tensor]:
    """(cos, sin), each (B, N, D), of all positions of a fold."""
    device, rope = like.device, lane.specs[index].rope
    return lane.once(
        ("angles", fold.view, rope, device), lambda: lane.adapter.rotary(like, fold.positions.to(device), rope)
    )


def _over_members(values: Tensor, fold: Fold, most: bool) -> Tensor:
    """(B, N, ...) -> (B, W, ...), summed over the positions at which a column stands, or the most of these."""
    member = fold.member.to(values.device)
    member = member.view(*member.shape, *[1] * (values.dim() - 2)).expand_as(values)
    total = values.new_zeros(len(values), fold.columns, *values.shape[2:])
    at, values = member.clamp(min=0), torch.where(member < 0, 0, values)
    return total.scatter_reduce(1, at, values, "amax" if most else "sum")
