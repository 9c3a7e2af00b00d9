"""Where merged tokens stand: the sequence of all positions that attention works on, and one row for each token."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from vtokens.core.layout import Layout
from vtokens.engine.cache import held, seen_length, stored_length
from vtokens.engine.call import Call
from vtokens.engine.copies import Copies
from vtokens.engine.reduction import View, gather, groups, reduce


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
