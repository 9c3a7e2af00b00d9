"""The prefill of a negative prompt: what it is fed, where it diverges, and what is kept of it beside the cache.

It runs after the pass that brought the pictures, since some contrasts choose their tokens by what that pass kept. From
then on both sequences are given the same tokens, and run together (`joint_decode`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from vtokens.core.compat import as_cache
from vtokens.engine.lanes.fed import Fed, Start
from vtokens.engine.lanes.negative_prompt import negative_of
from vtokens.engine.plan import Contrast
from vtokens.engine.record import Record
from vtokens.engine.state.cache_layers import all_keys, first_keys, holds_keys, track
from vtokens.engine.state.negative_keys import Divergence, NegativeKeys, divergence_of, negative_cache
from vtokens.engine.state.padding import join_padding
from vtokens.engine.state.per_layer import as_argument
from vtokens.engine.state.pictures import Pictures
from vtokens.engine.state.positions import rotary_positions
from vtokens.engine.state.request import NegativePrefill
from vtokens.strategies.views.logits import Prompt

Run = Callable[[NegativePrefill, dict[str, Any]], Any]
"""Calls the language model with a negative prompt."""


@dataclass(frozen=True)
class Answer:
    """What the negative prompt says in a pass that brought pictures.

    Attributes:
        hidden: (B, T, D), its last states.
        column: int64 (B, N), its column for each position of the prompt, below 0 where it has none; None if they are
            the same.
    """

    hidden: Tensor
    column: Tensor | None

    def at(self, positions: Tensor) -> Tensor:
        """(B, R, D): its states for some positions (R,) of the prompt; arbitrary where it has none."""
        hidden, positions = self.hidden, positions.to(self.hidden.device)
        if self.column is None:
            return hidden[:, positions]
        index = self.column.to(hidden.device)[:, positions].clamp(min=0)
        return hidden.gather(1, index[..., None].expand(-1, -1, hidden.shape[-1]))

    def both(self, positions: Tensor) -> Tensor:
        """Those of some positions, bool (B, N), at which both prompts say something.

        Where the prompt ends in a picture that the negative prompt lacks, the text before the picture speaks for it.
        """
        return positions if self.column is None else positions & (self.column >= 0).to(positions.device)


def prefill(start: Start, contrast: Contrast, run: Run) -> Answer:
    """Feed the negative prompt; what it caches goes beside the cache of the prompt.

    Args:
        start: the pass that brought pictures, ended.
        contrast: the strategy that asks for it, and what it is to hold.
        run: calls the language model.
    """
    lane = start.lane
    fed = negative_of(start, contrast)
    before = divergence_of(lane.cache)
    cache = None if lane.cache is None else negative_cache(lane.cache) or _copied(lane.cache, lane.past)
    if before is not None:
        fed = replace(fed, positions=fed.positions - before.shift.to(fed.positions.device)[:, None])
    past = 0 if cache is None else cache.get_seq_length()
    padding = lane.fed_before() if before is None else before.mask(lane.fed_before(), lane.past)
    mask = join_padding(padding, fed.valid, past, fed.embeds.shape[1])
    ends, column = _ends(start, fed)
    fed = replace(fed, column=column)
    total, record = fed.embeds.shape[1] + past, start.pictures.record
    pictures = pictures_of(start, fed, ends)
    output = run(
        NegativePrefill(contrast.plan, pictures, lane.asked, fed.both_ways), inputs_of(start, fed, cache, mask)
    )
    record.negative_length, record.negative = fed.embeds.shape[1], None if pictures is None else pictures.record
    if cache is not None:
        tail = start.pictures.layout.tail
        if isinstance(contrast.negative, Prompt):  # both have the candidates behind it, and no more
            tail = min(tail, lane.asked - 1)
        divergence = Divergence(lane.past + lane.length, total, mask, _shift(start, fed, before), tail)
        keyed = {index: layer for index, layer in enumerate(cache.layers) if holds_keys(cache, index)}
        states = {index: layer for index, layer in enumerate(cache.layers) if index not in keyed}
        for index, layer in keyed.items():
            track(lane.cache, index).negative = NegativeKeys(layer)
        first = track(lane.cache, first_keys(lane.cache))
        first.negative = NegativeKeys(keyed[first_keys(cache)], divergence, states)
    return Answer(output[0], fed.column)


def inputs_of(start: Start, fed: Fed, cache: Any, mask: Tensor | None) -> dict[str, Any]:
    """What the language model is called with to read a sequence beside the prompt.

    Args:
        start: the pass of the prompt.
        fed: the sequence.
        cache: what it goes on behind, and what it is kept in; None if it is not kept.
        mask: bool (B, cached and fed), False on padding; None if there is none.
    """
    adapter, total = start.lane.adapter, fed.embeds.shape[1] + (0 if cache is None else cache.get_seq_length())
    # Where nothing is padded, pass an explicit all-ones mask: position gaps would be read as packing.
    whole = torch.ones(len(fed.embeds), total, dtype=torch.bool, device=fed.embeds.device) if mask is None else mask
    return {
        "inputs_embeds": fed.embeds,
        "position_ids": fed.positions,
        **as_cache(adapter.language_model, cache),
        **start.side,
        **as_argument(adapter, fed.per_layer),
        "attention_mask": whole,
        "use_cache": cache is not None,
    }


def pictures_of(start: Start, fed: Fed, ends: Tensor) -> Pictures | None:
    """What a sequence beside the prompt has because it shows pictures, and where it ends; None if it shows none."""
    if fed.layout is None:
        return None
    record, positions = start.pictures.record, rotary_positions(fed.positions)
    own = Record(fed.layout, fed.embeds.shape[1], record.depth, record.itemsize)
    answered, ids = start.pictures.answered, _ids(start, fed)
    return Pictures(fed.layout, fed.runs, positions, ends, answered, own, fed.injection, ids)


def _ids(start: Start, fed: Fed) -> Tensor | None:
    """int64 (B, T): token ids of what a negative prompt is fed, its own or those of the prompt; None if not known."""
    ids = start.pictures.ids
    if fed.ids is not None or fed.column is None or ids is None:
        return ids if fed.ids is None else fed.ids
    column = torch.where(fed.column >= 0, fed.column, fed.embeds.shape[1])
    return ids.new_zeros(len(ids), fed.embeds.shape[1] + 1).scatter(1, column.to(ids.device), ids)[:, :-1]


def _ends(start: Start, fed: Fed) -> tuple[Tensor, Tensor | None]:
    """int64 (B, 1), where the negative prompts end; and `fed.column`, in which the prompts' ends have these columns.

    If the prompt ends in a picture that the negative prompt lacks, the last column before it answers in its place.
    """
    ends = start.pictures.ends
    if fed.column is None:
        return ends, None
    ends, place = ends.to(fed.column.device), torch.arange(start.lane.length, device=fed.column.device)
    last = torch.where(place <= ends, fed.column, -1).amax(1, keepdim=True)
    return last.clamp(min=0), fed.column.scatter(1, ends, last)


def _shift(start: Start, fed: Fed, divergence: Divergence | None) -> Tensor:
    """int64 (B,): by how much the rotary positions of the negative prompt lag behind for what follows."""
    if not fed.renumbered:  # as before, even where the negative prompt has not what stands last
        if divergence is not None:
            return divergence.shift
        return torch.zeros(len(fed.embeds), dtype=torch.long, device=fed.positions.device)

    def last(places: Tensor, valid: Tensor | None) -> Tensor:
        places = places if places.dim() == 2 else places.amax(0)
        return (places if valid is None else places.masked_fill(~valid, 0)).amax(1)

    device = fed.positions.device
    valid = start.lane.fed_now()
    valid = None if valid is None else valid.to(device)
    return last(start.positions.to(device), valid) - last(fed.positions, fed.valid)


def _copied(cache: Any, past: int) -> DynamicCache:
    """A cache with the first `past` positions of another: before any picture both sequences were the same.

    Raises:
        ValueError: that one does not hand them out.
    """
    copy = DynamicCache()
    stateful = not all(holds_keys(cache, index) for index in range(len(cache.layers)))
    if stateful and not past:
        copy.layers = [
            DynamicLayer() if holds_keys(cache, index) else type(layer)(number_of_states=layer.number_of_states)
            for index, layer in enumerate(cache.layers)
        ]
    for index in range(len(cache.layers) if past else 0):
        parts = None if stateful else all_keys(cache, index)
        if parts is None:
            raise ValueError(
                f"the negative prompt begins with the {past} positions fed before the picture, and a "
                f"{type(cache).__name__} {'whose layers keep states ' if stateful else ''}does not give them back: "
                f"begin with the picture{'' if stateful else ', or use the default DynamicCache'}"
            )
        new = DynamicLayer()
        new.update(*(part[:, :, :past] for part in parts))
        copy.layers.append(new)
    return copy
