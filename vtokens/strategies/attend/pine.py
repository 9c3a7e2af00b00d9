"""PINE: pictures in the order of how much each row looks at them, whatever order the prompt has them in."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vtokens.core.columns import columns_of
from vtokens.core.facts import Facts
from vtokens.kernels import group_weights, grouped_attention, reweigh
from vtokens.strategies.attend.few_rows import of_few, turned
from vtokens.strategies.base import Strategy
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.views.heads import Heads, Rows
from vtokens.strategies.views.places import Places, Segments

_NUMBER, _SHIFT, _AT = "pine segment", "pine shift", "pine position"
_FEW = 64
"""Rows times segments for which rows are moved to each segment, which no fused kernel does in one pass."""
_LENGTHS, _REGION, _ALONE, _SEEN = "pine lengths", "pine region", "pine alone", "pine seen"


@register(
    "pine",
    paper="PINE (Eliminating Position Bias of Language Models), arXiv:2407.01100",
    venue="ICLR 2025",
    evidence="text",
    shown="tests/strategies/test_pine.py::test_generation_is_that_of_reordered_pictures",
)
@dataclass(frozen=True)
class Pine(Strategy):
    """Takes the order of pictures out of a prompt: they see each other, and each row sorts them by what they are to it.

    A picture sees all others, before its own tokens; text behind the first picture sees all of them. Each head
    of each row measures them without positions, by the mean of exp(score) over a picture's tokens, and attends as if
    they stood in that order, the most important one nearest. A picture has one order for all of its tokens, by
    what they look at together. A prompt with one picture is left alone.
    """

    def needs(self, facts: Facts) -> Needs:
        return Needs(attend=range(facts.depth), weighs=True, once=True, computes=True, moves=True)

    def at_attend(self, heads: Heads) -> None:
        places = heads.places
        if places is None:
            raise RuntimeError("'pine' was not told where rows stand")
        older = heads.recall(_LENGTHS, earlier=True)
        if heads.layout is None and heads.recall(_SEEN) is None:
            raise ValueError(
                "this cache holds pictures that were read without 'pine': begin with an empty cache, or keep the "
                "strategy attached from the turn on that brings them"
            )
        if heads.layout is not None:
            heads.remember(_SEEN, torch.ones_like(heads.last.index[:, 0]))
            _note(heads, places, older)
        lengths = heads.recall(_LENGTHS)
        if lengths is None:
            return
        rows, now = _rows(heads, places.segments, older is not None)
        heads.replace(rows, _attended(heads, places, rows, now, lengths))


def _note(heads: Heads, places: Places, older: Tensor | None) -> None:
    """Note the pictures of a pass, of samples that bring several, behind those of earlier passes."""
    segments = places.segments
    if segments is None:
        return
    first = 0 if older is None else older.shape[1]
    lengths, alone, region = segments.lengths, heads.recall(_ALONE, earlier=True), heads.recall(_REGION, earlier=True)
    this = torch.full_like(lengths, first)
    if older is None:
        alone = segments.alone if segments.mixed else None
    else:
        lengths = torch.cat([older, lengths], 1)
        this = this if region is None else torch.cat([region, this], 1)
        alone = None if alone is None else alone & segments.alone
    heads.remember(_LENGTHS, lengths)
    heads.remember(_REGION, this)
    if alone is not None:
        heads.remember(_ALONE, alone)
    heads.mark(_NUMBER, torch.where(segments.number < 0, -1, segments.number + first), -1)
    heads.mark(_SHIFT, segments.shift, 0)
    for axis, at in enumerate(segments.at):
        heads.mark(f"{_AT} {axis}", at, 0)


def _rows(heads: Heads, segments: Segments | None, older: bool) -> tuple[Rows, Segments | None]:
    """The rows that see pictures, of samples that have several, and what is known of them where they bring some."""
    alone, width = heads.recall(_ALONE), heads.query.shape[2]
    if segments is None or older:
        index = torch.arange(width, device=heads.query.device).expand(len(heads.query), -1)
        real = None if alone is None else (~alone)[:, None].expand_as(index)
        return Rows(index, real, whole=real is None), segments
    layout = heads.layout
    ahead = [] if layout is None else [layout.lead[row] + layout.before[row] for row in set(layout.owner)]
    if alone is None and 2 * min(ahead, default=0) < width:
        # Those in front see no picture, so that nothing changes; few of them cost less than attention without this.
        return Rows(torch.arange(width, device=heads.query.device).expand(len(heads.query), -1), whole=True), segments
    rows = Rows(*columns_of(segments.behind, width - min(ahead, default=0)))
    return rows, segments.seen(rows.index, rows.real)


def _attended(heads: Heads, places: Places, rows: Rows, now: Segments | None, lengths: Tensor) -> Tensor:
    """float32 (B, H, R, D): what rows attend to, as if each had the pictures in its own order.

    Args:
        now: the segments of this pass, at the rows; None if it brings none.
        lengths: int64 (B, S), of all segments.
    """
    count, query, key = lengths.shape[1], rows.gather(heads.query), heads.key
    number, at = heads.marks(_NUMBER), [heads.marks(f"{_AT} {axis}") for axis in range(places.axes)]
    valid = torch.ones_like(number, dtype=torch.bool) if heads.valid is None else heads.valid
    own, place, total = torch.full_like(rows.index, -1), heads.past + rows.index, key.shape[2]
    begin, new = place.new_full((len(place), 1), total), count
    if now is not None and places.segments is not None:
        new = count - now.lengths.shape[1]
        own = torch.where(now.number < 0, -1, now.number + new)
        begin = total - places.segments.behind.sum(1, keepdim=True)
    # Products without positions: both are turned back by where they stand.
    angles = tuple(
        part.gather(1, rows.index[..., None].expand(-1, -1, part.shape[2])) for part in (places.cos, places.sin)
    )
    level = turned(query, (angles[0], -angles[1]))
    cos, sin = places.turn(torch.stack(at))
    few = now is None and key.device.type == "cpu" and count * query.shape[2] <= _FEW
    value = heads.value[..., :1] if few else heads.value  # log-sum-exps are all that is asked for
    _, lse = grouped_attention(level, turned(key, (cos, -sin)), value, number, count, heads.scaling)
    tokens = (number[..., None] == torch.arange(count, device=number.device)).sum(1)
    worth = lse.movedim(0, -1) - tokens.clamp(min=1).log()[:, None, None]
    worth = worth if now is None else _by_segment(worth, tokens, own)
    if few:
        further = torch.cat([_ahead(worth, lengths, heads.recall(_REGION), one) for one in range(count)], 2)
        number = number.masked_fill(~valid, -2)
        return of_few(heads, places, query, number, heads.marks(_SHIFT), place, further)
    # Segments stand in a stack; each row moves by how far from its end it has each of them.
    stacked = turned(key, places.turn(heads.marks(_SHIFT)))
    query = query if now is None else turned(query, places.turn(now.shift))
    outputs, sums = [], []
    for segment in range(-1, count):
        seen, moved = _seen(segment, own, place, total - 1, now, begin, new), query
        if segment >= 0:
            flat = query.reshape(len(query), 1, -1, query.shape[-1])
            further = _ahead(worth, lengths, heads.recall(_REGION), segment)
            moved = turned(flat, places.turn(further.flatten(1))).view_as(query)
        mine = torch.where((number == segment) & valid, 0, -1)
        output, lse = grouped_attention(moved, stacked, heads.value, mine, 1, heads.scaling, seen)
        outputs.append(output)
        sums.append(lse)
    return reweigh(torch.cat(outputs), group_weights(torch.cat(sums)))


def _seen(segment: int, own: Tensor, place: Tensor, last: int, now: Segments | None, begin: Tensor, new: int) -> Tensor:
    """int64 (B, R): the last key that each row sees of a segment, or of the text (-1).

    Args:
        segment: its number.
        own: int64 (B, R), the segment that each row is of, -1 for text.
        place: int64 (B, R), where its own key stands.
        last: the last key.
        now: as in `_attended`.
        begin: int64 (B, 1), the first key of the pictures of this pass.
        new: the number of the first segment of this pass.
    """
    everything = torch.full_like(place, last)
    if now is None:
        return place if segment < 0 else everything
    if segment < 0:
        return torch.where(own < 0, place, begin - 1)
    if segment >= new:  # text before them
        everything = everything.masked_fill(~now.behind, -1)
    return torch.where(own == segment, place, everything)


def _by_segment(worth: Tensor, tokens: Tensor, own: Tensor) -> Tensor:
    """What each row makes of the segments (B, H, R, S), where those of one segment decide together, itself first.

    Each gives the others their share of its attention to them, a token's in the mean.
    """
    member = torch.nn.functional.one_hot(own + 1, tokens.shape[1] + 1)[..., 1:].to(worth.dtype)  # (B, R, S)
    mine = member[:, None].bool()
    logits = (worth + tokens.clamp(min=1).log()[:, None, None]).masked_fill(mine, -torch.inf)
    shares = logits.softmax(-1).nan_to_num(0.0) / tokens.clamp(min=1)[:, None, None]
    total = torch.einsum("bri,bhrs->bhis", member, shares)
    together = torch.einsum("bri,bhis->bhrs", member, total).masked_fill(mine, torch.inf)
    return torch.where(own[:, None, :, None] < 0, worth, together)


def _ahead(worth: Tensor, lengths: Tensor, region: Tensor | None, segment: int) -> Tensor:
    """int64 (B, H, R): the positions of the segments that stand nearer to each row than one of them does."""
    this, place = worth[..., segment : segment + 1], torch.arange(lengths.shape[1], device=worth.device)
    nearer = (worth > this) | ((worth == this) & (place < segment))
    counted = lengths if region is None else lengths * (region == region[:, segment : segment + 1])
    return (nearer * counted[:, None, None]).sum(-1)
