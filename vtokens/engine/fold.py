"""Virtual unmerging: attention works on all positions of merged tokens, the rest of a layer on one row for each."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from vtokens.adapters import Adapter
from vtokens.engine.attention import Attention
from vtokens.engine.cache import held, seen_length, stored_length
from vtokens.engine.call import Call
from vtokens.engine.copies import Copies
from vtokens.engine.padding import seen_padding
from vtokens.engine.reduction import View, gather, groups, reduce
from vtokens.kernels import rotate, unfold, unmerge_attention, unmerge_rows
from vtokens.layout import Layout

Attend = Callable[[Attention], tuple[Tensor, Any]]


@dataclass(frozen=True)
class Unmerging:
    """What a strategy asked to be unmerged in this pass.

    Attributes:
        view: how `layout` relates to the fed sequence; None if they are the same.
        layout: the sequence before the strategy dropped what it had merged.
        stands: int64 (B, W), the row of that sequence which goes on for each.
        own: group of the view after it dropped them, in which all of them are still represented.
        positions: int64 (C, B, fed), rotary positions.
    """

    view: View | None
    layout: Layout
    stands: Tensor
    own: int
    positions: Tensor


@dataclass(frozen=True)
class Fold:
    """The sequence that attention works on while a layer sees merged tokens.

    Attributes:
        view: how that sequence relates to the fed one.
        member: int64 (B, N), the layer's row that stands at each of its positions, below 0 on padding.
        rows: the layer's rows.
        positions: int64 (C, B, N), rotary positions.
    """

    view: View
    member: Tensor
    rows: int
    positions: Tensor

    @cached_property
    def copies(self) -> Copies:
        """The same for the cache; layers share it."""
        positions = self.positions.transpose(0, 1).expand(len(self.member), -1, -1)
        turned = torch.zeros_like(self.member, dtype=torch.bool)
        return Copies(self.member, positions, turned, self.view.group)


def fold_now(call: Call) -> Fold | None:
    """How the rows seen now are to be unfolded; None if there is nothing to unmerge, or nothing of it left."""
    unmerging, view = call.unmerging, call.view
    if unmerging is None or view is None or call.layout is None or not any(call.layout.counts):
        return None
    key = ("fold", view.group)
    if key not in call.scratch:
        call.scratch[key] = _fold(call, unmerging, view)
    return call.scratch[key]


def _fold(call: Call, unmerging: Unmerging, view: View) -> Fold:
    layout, device = unmerging.layout, view.index.device
    batch, width = layout.visual.shape
    place = torch.arange(width, device=device).expand(batch, -1)
    base = unmerging.view or View(place, None, layout, next(groups))
    # Row of the layer at each fed position. Padding rows point anywhere, so they must not overwrite.
    rows = torch.arange(view.index.shape[1], device=device).expand_as(view.index)
    rows = rows if view.real is None else torch.where(view.real, rows, -1)
    at = torch.full((batch, call.length), -1, device=device).scatter_reduce(1, view.index, rows, "amax")
    member = at.gather(1, base.index.gather(1, unmerging.stands))
    if base.real is not None:
        member = torch.where(base.real, member, -1)
    stay = (member >= 0) & layout.visual
    counts = layout.counts if view.group == unmerging.own else layout.count(stay)
    reduced = reduce(layout, stay, counts, unmerging.view)
    if reduced is not None:
        base, kept = reduced
        member = member.gather(1, kept)
        member = member if base.real is None else torch.where(base.real, member, -1)
    return Fold(base, member, view.index.shape[1], gather(unmerging.positions, base.index, 2))


def rotary_positions(position_ids: Tensor) -> Tensor:
    """int64 (C, B, N) from what the language model is given: 2-D, or 3-D with M-RoPE and perhaps a row for text."""
    if position_ids.dim() == 2:
        return position_ids[None]
    return position_ids[1:] if len(position_ids) == 4 else position_ids


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
        keys, values = torch.cat([key, new_key], 2), torch.cat([value, new_value], 2)
        return inner(replace(attention, query=query, key=keys, value=values))

    if fold is None:
        return run(attention.query, new_key, new_value)
    device = attention.query.device
    member, (cos, sin) = fold.member.to(device), _angles(call, fold.view.group, attention.query, fold.positions)
    with _unfolded(call, fold, states):
        output = unmerge_attention(
            attention.query, new_key, new_value, member, cos, sin, lambda *parts: run(*parts)[0].transpose(1, 2)
        )
    return output.transpose(1, 2).contiguous(), None


def copies_after(call: Call, index: int, cache: Any, new: int, valid: Tensor | None) -> Copies | None:
    """What the cache of layer `index` must know after this pass stored `new` rows; None if it holds nothing merged.

    Args:
        call: the pass.
        index: decoder layer.
        cache: what it appended to.
        new: rows it stored there.
        valid: bool (B, K), padding among all positions that attention sees; None if there is none.
    """
    fold, layer = call.folds.get(index), held(cache, index)
    older = None if layer is None else layer.prefix.copies
    if fold is None and older is None:
        return None
    stored, keys = stored_length(cache, index), cache.layers[index].keys
    latest = new if fold is None else fold.member.shape[1]
    total = seen_length(cache, index) - new + latest
    if valid is None:
        valid = torch.ones(len(keys), total, dtype=torch.bool, device=keys.device)
    channels = older.positions.shape[1] if older is not None else len(fold.positions) if fold is not None else 1
    ends, rows = (0, 0) if older is None or layer is None else (older.length, layer.prefix.stored)
    between = Copies.plain(valid[:, ends : total - latest], channels)
    before = between if older is None else older.followed_by(between, rows)
    after = Copies.plain(valid[:, total - latest :], channels) if fold is None else fold.copies
    return before.followed_by(after, stored - new) if before.length else after


def check_rotary(adapter: Adapter) -> None:
    """Raise `ValueError` if the decoder does not rotate queries and keys as `kernels.rotate` does."""
    layer = adapter.layers[0].self_attn
    function = getattr(sys.modules[type(layer).__module__], "apply_rotary_pos_emb", None)
    states = torch.linspace(-1, 1, 2 * layer.head_dim).view(1, 1, 2, layer.head_dim)
    angle = torch.linspace(0, 2, layer.head_dim // 2).expand(1, 2, -1).repeat(1, 1, 2)
    if function is None or not torch.allclose(
        function(states, states, angle.cos(), angle.sin())[0], rotate(states, angle.cos(), angle.sin()), atol=1e-5
    ):
        raise ValueError(
            f"virtual unmerging rotates dimension d with d + {layer.head_dim // 2}, and a {type(layer).__name__} does "
            "not: use dymu(unmerge=False)"
        )


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
    first = rotate(unfold(key[:, :, :stored], member), cos, sin)
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
        # What all positions of a token received, the token received.
        found = {key: _sum(part, fold) for key, part in call.received.items()}
        call.view, call.layout, call.hidden, call.received = view, layout, hidden, received | found


def _sum(values: Tensor, fold: Fold) -> Tensor:
    """(B, N) -> (B, W), summed over the positions at which each row stands."""
    member = fold.member.to(values.device)
    total = values.new_zeros(len(values), fold.rows)
    return total.scatter_add(1, member.clamp(min=0), torch.where(member < 0, 0, values))
