"""How what a layer sees is unfolded to all positions of merged tokens, and what its cache must know of it."""

from __future__ import annotations

import torch
from torch import Tensor

from vtokens.engine.state.cache_layers import lengths, tracked
from vtokens.engine.state.folds import Copies, Fold, Unmerging
from vtokens.engine.state.lane import Lane
from vtokens.engine.state.reduce import reduce
from vtokens.engine.state.view import View, columns_at, gather


def fold_now(lane: Lane) -> Fold | None:
    """How the columns seen now are to be unfolded; None if there is nothing to unmerge, or nothing of it left."""
    unmerging, view = None if lane.pictures is None else lane.pictures.unmerging, lane.view
    if unmerging is None or view is None or not lane.shows:
        return None
    return lane.once(("fold", view), lambda: _fold(lane.length, unmerging, view))


def _fold(length: int, unmerging: Unmerging, view: View) -> Fold:
    device = view.index.device  # a later drop may have been in a layer on another one
    layout, before = unmerging.layout.to(device), None if unmerging.view is None else unmerging.view.to(device)
    batch, width = layout.visual.shape
    base = before or View(torch.arange(width, device=device).expand(batch, -1), None, layout)
    at = columns_at(view.index, view.real, length)
    member = at.gather(1, base.index.gather(1, unmerging.stands.to(device)))
    if base.real is not None:
        member = torch.where(base.real, member, -1)
    stay = (member >= 0) & layout.visual
    counts = layout.counts if view is unmerging.own else layout.count(stay)
    reduced = reduce(layout, stay, counts, before)
    if reduced is not None:
        base, kept = reduced
        member = member.gather(1, kept)
        member = member if base.real is None else torch.where(base.real, member, -1)
    return Fold(base, member, view.index.shape[1], gather(unmerging.positions, base.index, 2))


def copies_after(lane: Lane, index: int, new: int, valid: Tensor | None) -> Copies | None:
    """What the cache of layer `index` must know after a pass stored `new` keys; None if it holds nothing merged.

    Args:
        new: keys it stored there.
        valid: bool (B, K), padding among all positions that attention sees; None if there is none.
    """
    cache, fold = lane.cache, lane.folds.get(index)
    layer = tracked(cache, index)
    older = None if layer is None else layer.keymap.copies
    if fold is None and older is None:
        return None
    given, seen, _ = lengths(cache, index)
    latest = new if fold is None else fold.member.shape[1]
    total = seen - new + latest
    if valid is None:
        valid = torch.ones(len(lane.hidden), total, dtype=torch.bool, device=lane.hidden.device)
    channels = older.positions.shape[1] if older is not None else len(fold.positions) if fold is not None else 1
    ends, keys = (0, 0) if older is None or layer is None else (older.length, layer.keymap.given)
    between = Copies.plain(valid[:, ends : total - latest], channels)
    before = between if older is None else older.followed_by(between, keys)
    after = Copies.plain(valid[:, total - latest :], channels) if fold is None else fold.copies
    return before.followed_by(after, given - new) if before.length else after
