"""What pruners ask of the attention of a decoder layer: what its keys receive, and the keys themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vtokens.core.columns import columns_of, last_column
from vtokens.core.layout import Layout
from vtokens.engine.attention.apart import pooled_apart
from vtokens.engine.attention.by_head import attention_by_head
from vtokens.engine.attention.key_padding import present_padding
from vtokens.engine.attention.masks import chunks, query_key_positions
from vtokens.engine.attention.tap import AttentionCall
from vtokens.engine.state.lane import Lane
from vtokens.engine.state.padding import join_padding
from vtokens.engine.state.pictures import Pictures
from vtokens.engine.state.view import gather, spread
from vtokens.kernels import attention_colmax, attention_colmean, rotate
from vtokens.strategies.signals import Attention, Change, LayerKeys, Neurons, QueryRows

_POOLS: dict[str, Callable[..., Tensor]] = {
    "mean": attention_colmean, "max": attention_colmax, "each": attention_by_head,
}  # fmt: skip


def observe(lane: Lane, pictures: Pictures, signal: Attention, attention: AttentionCall) -> None:
    """Note in `pictures` what the keys of a decoder layer receive from the queries asked for, or how to work it out.

    Args:
        signal: which layer and rows, how they are pooled, and whether the rotary embedding is undone.
        attention: the layer's call, rotary embedding applied.
    """
    query, key, layer = attention.query.detach(), attention.key.detach(), signal.layer
    if not lane.shows:  # an exit before this layer left no picture to look at
        shape = (len(query), lane.length, *([query.shape[1]] if signal.pool == "each" else []))
        pictures.observed[signal] = query.new_zeros(shape, dtype=torch.float32)
        return
    layout, length = lane.layout_on(query.device), query.shape[2]
    past, last = key.shape[2] - length, lane.last_prompt(pictures, query.device)
    both_ways = lane.both_ways_at(layer)
    where, weight = _queries(lane, pictures, signal.rows, layout, last)
    index = where[:, None, :, None].expand(-1, query.shape[1], -1, query.shape[3])
    allowed = join_padding(present_padding(lane, layer, past), layout.valid, past, length)
    if layer in lane.windows:  # one query a sample, or the pass was refused (`check_window`)
        at, of = query_key_positions(lane, layer, past, length, lane.view, query.device)
        asking, window = at.expand(len(query), -1).gather(1, last), lane.windows[layer]
        if lane.specs[layer].kind == "chunked":
            near = chunks(lane, window, asking) == chunks(lane, window, of)
        else:
            near = asking - of < window
        if both_ways is not None and both_ways.whole:
            ids = both_ways.seen(lane.view, query.device)
            same = (ids == ids.gather(1, last)) & (ids >= 0)
            near = near | torch.nn.functional.pad(same, (past, 0))
        allowed = near if allowed is None else allowed & near
    until = where if both_ways is None else both_ways.until(lane.view, query.device).gather(1, where)
    query, bias = query if signal.rows == "all" else query.gather(2, index), attention.bias
    if not signal.rotary:  # tokens of this pass alone: those before were turned in passes that are over
        query, key = _unturned(lane, query, where), _unturned(lane, key[:, :, past:])
        allowed = layout.visual if allowed is None else allowed[:, past:] & layout.visual
        bias, past = None if bias is None else bias[..., past:], 0
    pool, view = _POOLS[signal.pool], lane.view
    angles = _directions(lane, where, past, query.device) if signal.level else None

    def received() -> Tensor:
        others: dict[str, Any] = {"scaling": attention.scaling, "softcap": attention.softcap, "angles": angles}
        if both_ways is not None and both_ways.apart:
            ids = both_ways.seen(view, query.device)
            found = pooled_apart(pool, _pooled, ids, where, past, query, key, weight, allowed, bias, others)
        else:
            found = _pooled(pool, query, key, weight, until + past, allowed, bias, **others)
        return spread(found[:, past:], view, lane.length)

    if signal.lazy:
        pictures.pending[signal] = received
    else:
        pictures.observed[signal] = received()


def _pooled(
    pool: Callable[..., Tensor], query: Tensor, key: Tensor, weight: Tensor | None, until: Tensor,
    allowed: Tensor | None, bias: Tensor | None, scaling: float, softcap: float | None,
    angles: tuple[Tensor, Tensor] | None = None,
) -> Tensor:  # fmt: skip
    """What `pool` gives where the heads of keys may have biases of their own: each is then a sample by itself."""
    more: dict[str, Any] = {} if angles is None else {"angles": angles}
    if bias is None or bias.dim() == 2:
        return pool(query, key, scaling, weight, until, allowed, bias, softcap, **more)
    heads = key.shape[1]
    if angles is not None:
        more = {"angles": tuple(one.repeat_interleave(heads, 0) for one in angles)}
    weight, allowed = (None if one is None else one.repeat_interleave(heads, 0) for one in (weight, allowed))
    query, key = query.unflatten(1, (heads, -1)).flatten(0, 1), key.flatten(0, 1)[:, None]
    until, bias = until.repeat_interleave(heads, 0), bias.flatten(0, 1)
    found = pool(query, key, scaling, weight, until, allowed, bias, softcap, **more).unflatten(0, (-1, heads))
    if pool is attention_by_head:
        return found.transpose(1, 2).flatten(2)
    return found.mean(1) if pool is attention_colmean else found.amax(1)


def _queries(
    lane: Lane, pictures: Pictures, rows: QueryRows, layout: Layout, last: Tensor
) -> tuple[Tensor, Tensor | None]:
    """int64 (B, R), the queries that a signal asks for, and bool (B, R), which of them count; None if all do.

    A prompt that ends with its picture has no text behind it: its last position speaks for that.

    Args:
        rows: the signal's.
        layout: of what is seen.
        last: int64 (B, 1), where each prompt ends.
    """
    if rows == "last":
        return last, None
    if rows == "after":
        place, picture = torch.arange(layout.visual.shape[1], device=last.device), last_column(layout.image >= 0)
        behind = torch.where(layout.words & (place > picture), place, place.shape[0]).amin(1, keepdim=True)
        return torch.where(picture < 0, last, torch.minimum(behind, last)), None
    if rows == "visual":
        return columns_of(layout.visual, max(1, *layout.per_sample()))
    place = torch.arange(layout.visual.shape[1], device=last.device)
    if rows == "all":
        prompt = layout.valid.bool() & (place <= last)
        return place.expand_as(prompt), prompt
    text = layout.words_after & (place <= last)
    text = torch.where(text.any(1, keepdim=True), text, place == last)
    if rows == "raters" and pictures.raters is not None:
        raters = pictures.raters.to(last.device)
        raters = text & (raters if lane.view is None else gather(raters, lane.view.index, 1))
        text = torch.where(raters.any(1, keepdim=True), raters, text)
    # At most this many queries count, known on the host; the others are not computed.
    rest = [len(place) - lead - count for lead, count in zip(layout.lead, layout.per_sample(), strict=True)]
    return columns_of(text, max(1, *rest))


def observe_keys(lane: Lane, pictures: Pictures, signal: LayerKeys, attention: AttentionCall) -> None:
    """Note in `pictures` the keys that a decoder layer makes of the columns of this pass.

    Args:
        signal: which layer, and whether the rotary embedding is applied.
        attention: the layer's call before merged tokens are unmerged in it: where they are, its keys are not turned.
    """
    key, length = attention.key.detach(), attention.query.shape[2]
    key, turned = key[:, :, key.shape[2] - length :], signal.layer not in lane.folds
    if turned and not signal.rotary:
        key = _unturned(lane, key).to(key.dtype)
    elif signal.rotary and not turned:
        key = rotate(key, *_angles(lane, key.device)).to(key.dtype)
    pictures.observed[signal] = spread(key.transpose(1, 2), lane.view, lane.length)


def observe_neurons(lane: Lane, pictures: Pictures, signal: Neurons, neurons: Tensor) -> None:
    """Note in `pictures` how many active neurons each column has in common with the word that a signal names.

    Args:
        neurons: (B, W, I), what enters the last matrix of the MLP.
    """
    if not lane.shows:
        pictures.observed[signal] = neurons.new_zeros(len(neurons), lane.length, dtype=torch.float32)
        return
    active = neurons.detach() > 0
    first = (~lane.layout_on(active.device).valid.bool()).long().cumprod(1).sum(1, keepdim=True)
    at = torch.maximum(lane.last_prompt(pictures, active.device) + signal.reference + 1, first)
    word = active.gather(1, at[..., None].expand(-1, -1, active.shape[2]))
    pictures.observed[signal] = spread((active & word).sum(2).float(), lane.view, lane.length)


def observe_change(lane: Lane, pictures: Pictures, signal: Change, given: Tensor, made: Tensor) -> None:
    """Note in `pictures` how a part of a decoder layer changes states.

    Args:
        signal: which part of which layer.
        given: (B, W, D), what it is given.
        made: (B, W, D), what it puts out.
    """
    found = changed(given.detach(), made.detach(), lane.layout_on(given.device).valid.bool())
    pictures.observed[signal] = spread(found, lane.view, lane.length)


def changed(given: Tensor, made: Tensor, real: Tensor) -> Tensor:
    """float32 (B, W, 3): |y| / |x|, their cosine, and the softmax of 1 - cosine over a sample's `real` positions.

    Args:
        given: x, (B, W, D).
        made: y, (B, W, D).
        real: bool (B, W), False on padding.
    """
    given, made, least = given.float(), made.float(), torch.finfo(torch.float32).tiny
    before, after = given.norm(dim=-1), made.norm(dim=-1)
    cosine = (given * made).sum(-1) / (before * after).clamp(min=least)
    unlike = (1 - cosine).masked_fill(~real, -torch.inf).softmax(1)
    return torch.stack([after / before.clamp(min=least), cosine, unlike], -1)


def _unturned(lane: Lane, states: Tensor, columns: Tensor | None = None) -> Tensor:
    """Queries or keys float32 (B, H, R, D) with the rotary embedding undone, of all columns, or of some (B, R)."""
    cos, sin = (part.float() for part in _angles(lane, states.device))
    if columns is not None:
        cos, sin = gather(cos, columns, 1), gather(sin, columns, 1)
    # Some decoders stretch what they turn (YaRN).
    stretch = (cos * cos + sin * sin)[:, None]
    return rotate(states.float(), cos, -sin) / stretch


def _directions(lane: Lane, columns: Tensor, past: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Unit vectors at the angles of queries (B, R, 2D) and of keys (B, past + W, 2D), those of earlier passes zero."""
    cos, sin = (part.float() for part in _angles(lane, device))
    stretch = (cos * cos + sin * sin).sqrt()
    unit = torch.cat([cos / stretch, sin / stretch], -1)
    keys = torch.nn.functional.pad(unit, (0, 0, past, 0)).expand(len(columns), -1, -1)
    return gather(unit, columns, 1), keys


def _angles(lane: Lane, device: torch.device) -> tuple[Tensor, Tensor]:
    if lane.angles is None:
        raise RuntimeError("this layer was given no rotary embeddings")
    cos, sin = lane.angles
    return cos.to(device), sin.to(device)
