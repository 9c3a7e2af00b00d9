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
from vtokens.engine.lanes.negative_prompt import Fed, Start, build, with_prompt
from vtokens.engine.plan import Contrast
from vtokens.engine.record import NegativeRecord, Record
from vtokens.engine.state.cache_layers import held, track
from vtokens.engine.state.lane import Pictures
from vtokens.engine.state.negative_keys import Divergence, NegativeKeys, divergence_of, negative_cache
from vtokens.engine.state.padding import join
from vtokens.engine.state.positions import rotary_positions
from vtokens.engine.state.prompt_end import answered_positions, steps
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
        answers: bool (B, N), positions whose logits are contrasted; None if all are.
        step: int64 (B, N), which token of the answer each position predicts; None if nobody knows.
    """

    hidden: Tensor
    column: Tensor | None
    answers: Tensor | None
    step: Tensor | None

    def at(self, positions: Tensor) -> Tensor:
        """(B, R, D): its states for some positions (R,) of the prompt; arbitrary where it has none."""
        hidden, positions = self.hidden, positions.to(self.hidden.device)
        if self.column is None:
            return hidden[:, positions]
        index = self.column.to(hidden.device)[:, positions].clamp(min=0)
        return hidden.gather(1, index[..., None].expand(-1, -1, hidden.shape[-1]))


def prefill(start: Start, contrast: Contrast, run: Run) -> Answer:
    """Feed the negative prompt; what it caches goes beside the cache of the prompt.

    Args:
        start: the pass that brought pictures, ended.
        contrast: the strategy that asks for it, and what it is to hold.
        run: calls the language model.
    """
    lane = start.lane
    other, given = isinstance(contrast.negative, Prompt), start.request.negative_prompt or {}
    fed = with_prompt(start, given) if other else build(start, contrast.negative, contrast.strategy)
    before = divergence_of(lane.cache)
    cache = None if lane.cache is None else negative_cache(lane.cache) or _copied(lane.cache, lane.past)
    if before is not None:
        fed = replace(fed, positions=fed.positions - before.shift.to(fed.positions.device)[:, None])
    past = 0 if cache is None else cache.get_seq_length()
    mask = _mask(start, fed, before, past)
    ends, column = _ends(start, fed)
    fed = replace(fed, column=column)
    # Where nothing is padded, pass an explicit all-ones mask: position gaps would be read as packing.
    total = fed.embeds.shape[1] + past
    said = torch.ones(len(fed.embeds), total, dtype=torch.bool, device=fed.embeds.device) if mask is None else mask
    inputs = {
        "inputs_embeds": fed.embeds,
        "position_ids": fed.positions,
        **as_cache(lane.adapter.language_model, cache),
        **start.side,
        "attention_mask": said,
        "use_cache": cache is not None,
    }
    record, pictures = None, None
    if fed.layout is not None:
        record = Record(fed.layout, fed.embeds.shape[1], len(lane.adapter.layers), fed.embeds.element_size())
        positions = rotary_positions(fed.positions)
        answered = start.pictures.answered
        pictures = Pictures(fed.layout, fed.runs, positions, ends, answered, record, fed.injection)
    output = run(NegativePrefill(contrast.plan, pictures, lane.asked, fed.blocks), inputs)
    start.pictures.record.negative = NegativeRecord(
        fed.embeds.shape[1],
        0 if fed.layout is None else sum(fed.layout.counts),
        {} if record is None else record.views,
        {} if record is None else record.attended,
    )
    seen, shown = _seen(start, before)
    if cache is not None:
        _keep(lane.cache, cache, Divergence(
            lane.past + lane.length, total, mask, _shift(start, fed, before), seen,
            _tail(start, other), lane.past + lane.length - lane.asked,
        ))  # fmt: skip
    answers = _answers(start, fed, shown)
    step = None if cache is None else steps(start.pictures.ends, lane.length)
    return Answer(output[0], fed.column, answers, step)


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


def _mask(start: Start, fed: Fed, divergence: Divergence | None, past: int) -> Tensor | None:
    """bool (B, past + T), the padding of the negative prompt; None if nothing is padded."""
    lane = start.lane
    before = lane.fed_before() if lane.past else None
    before = before if divergence is None else divergence.mask(before, lane.past)
    return join(before, fed.valid, past, fed.embeds.shape[1])


def _answers(start: Start, fed: Fed, shown_before: Tensor | None) -> Tensor:
    """bool (B, N): text behind the first picture of its sample that both sequences have, and the end of the prompt.

    Where that is a picture that the negative prompt has not, what it says after the text before the picture counts.
    """
    layout, ends = start.pictures.layout.to(fed.embeds.device), start.pictures.ends.to(fed.embeds.device)
    answers = answered_positions(layout, ends, shown_before)
    return answers if fed.column is None else answers & (fed.column >= 0)


def _tail(start: Start, other: bool) -> int:
    """Trailing positions that both have and that may be cropped; of another prompt only candidates behind it."""
    tail = start.pictures.layout.tail
    return min(tail, start.lane.asked - 1) if other else tail


def _seen(start: Start, divergence: Divergence | None) -> tuple[Tensor | None, Tensor | None]:
    """Samples that have pictures now (None: all have), and those that had some before this pass (None: none had)."""
    layout = start.pictures.layout
    batch, device = layout.visual.shape[0], layout.visual.device
    everyone = torch.ones(batch, dtype=torch.bool, device=device)
    before = None if divergence is None else everyone if divergence.seen is None else divergence.seen.to(device)
    owners = set(layout.owner)
    if len(owners) == batch or (divergence is not None and divergence.seen is None):
        return None, before
    now = torch.tensor([row in owners for row in range(batch)]).to(device)
    return now if before is None else now | before, before


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
    for index in range(len(cache.layers) if past else 0):
        parts = held(cache, index)
        if parts is None:
            raise ValueError(
                f"the negative prompt begins with the {past} positions fed before the picture, and a "
                f"{type(cache).__name__} does not give them back: begin with the picture, or use the default "
                "DynamicCache"
            )
        new = DynamicLayer()
        new.update(*(part[:, :, :past] for part in parts))
        copy.layers.append(new)
    return copy


def _keep(cache: Any, negative: Any, divergence: Divergence) -> None:
    """Put the layers of the negative prompt beside those of the cache."""
    for index, layer in enumerate(negative.layers):
        track(cache, index).negative = NegativeKeys(layer, divergence if index == 0 else None)
