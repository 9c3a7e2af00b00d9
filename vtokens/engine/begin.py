"""The beginning of a pass: lanes are made of what the decoder is about to be given, and `prompt` strategies act."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vtokens.adapters import Adapter
from vtokens.core.compat import given_cache
from vtokens.core.later import Later
from vtokens.core.layout import Layout
from vtokens.engine.attention.static_mask import with_padding_mask
from vtokens.engine.checks.arguments import check_arguments, check_mask, side_inputs
from vtokens.engine.checks.both_ways import check_both_ways
from vtokens.engine.checks.caches import check_continued
from vtokens.engine.checks.copies import check_copies
from vtokens.engine.checks.prefill import check_prefill
from vtokens.engine.checks.rows import check_rows
from vtokens.engine.checks.window import check_no_window, check_window
from vtokens.engine.forward import Pass
from vtokens.engine.lanes.fed import Start
from vtokens.engine.lanes.joint_decode import Joint, with_negative
from vtokens.engine.lanes.text import TextLane
from vtokens.engine.plan import Plan
from vtokens.engine.record import Record
from vtokens.engine.stages import logits, prompt
from vtokens.engine.stages.answers import answers_in
from vtokens.engine.state.aside import any_of, aside_places
from vtokens.engine.state.both_ways import BothWays, stretches
from vtokens.engine.state.cache_layers import tracked_layers
from vtokens.engine.state.injection import injected, left_to_engine
from vtokens.engine.state.lane import Lane
from vtokens.engine.state.per_layer import per_layer_of
from vtokens.engine.state.pictures import Pictures
from vtokens.engine.state.positions import fed_positions, given_positions, rotary_positions
from vtokens.engine.state.prompt_end import answered_counts, asked_for, prompt_ends
from vtokens.engine.state.request import NegativePrefill, Request
from vtokens.engine.state.slots import keep_all
from vtokens.engine.state.tiles import joined
from vtokens.engine.state.tower_run import TowerRun

Kwargs = dict[str, Any]
Begun = tuple[Pass, Kwargs | None]
"""A pass, and what the decoder is to be given instead; None if nothing else."""


def handed_on(request: Request, args: tuple[Any, ...], kwargs: Kwargs) -> bool:
    """Whether the language model got this from the call of `request`, and not from the caller itself.

    torch tells hooks of an exception, but of no KeyboardInterrupt, so that the call may be one that was cut off.
    """
    hidden = kwargs.get("inputs_embeds")
    return not args and hidden is not None and kwargs.get("input_ids") is None and request.fits(hidden)


def requested(adapter: Adapter, request: Request, kwargs: Kwargs) -> Begun:
    """The pass of a call of the multimodal module.

    Raises:
        ValueError: strategies cannot act in it; says why and the way out.
    """
    plan, hidden, given = request.plan, kwargs["inputs_embeds"], kwargs
    if adapter.anatomy.visibility is not None:  # the mask given there, of which the module made others for the decoder
        kwargs = {**kwargs, "attention_mask": request.inputs.get("attention_mask")}
    both_ways = stretches(adapter, request.inputs, _past(kwargs), hidden.shape[1]) if plan else None
    if plan:
        keep_all(given_cache(kwargs), [spec.window for spec in adapter.specs])
    kwargs, cache, past, padding = _cached(plan, kwargs, bool(request.runs), both_ways)
    acting = bool(plan and request.runs) or bool(tracked_layers(cache))
    if acting:
        check_arguments(adapter, kwargs)
    if plan:
        check_prefill(request, adapter, past, kwargs)
        check_both_ways(request, adapter, both_ways, past, hidden.shape[1])
    if acting:
        check_window(adapter, plan, past + hidden.shape[1], bool(request.runs))
    layout, runs = _layout(request, adapter, kwargs)
    asked, pictures = asked_for(request.logits_to_keep, hidden.shape[1]), None
    if layout is not None:
        if asked - 1 > layout.tail:  # logits of pictures, or of what stands before them: that is no answer
            asked = 1
        if plan:
            check_copies(adapter, layout, request.inputs)
        pictures = _pictures(adapter, request, layout, runs, asked, past, hidden, kwargs)
    check_rows(plan.programs, len(hidden), layout)
    lane, left = Lane(adapter, plan, hidden, past, padding, cache, asked, pictures, both_ways), None
    if plan and pictures is None and hidden.shape[1] > 1:  # what is left alone may come behind pictures of before
        lane.aside = any_of(aside_places(adapter, request.inputs))
    if acting and any(spec.slot != index for index, spec in enumerate(lane.specs)):
        # Such decoders leave rows out where sharing begins, if they are told which logits are asked for.
        kwargs, left = {**kwargs, "logits_to_keep": 0}, {**given, "logits_to_keep": 0}
    if pictures is not None and pictures.injection is not None:
        left = kwargs = left_to_engine(adapter, kwargs)
    changes_logits = request.outer is not None and (plan.at_logits or plan.contrast is not None)
    answers = answers_in(request, lane) if changes_logits else None
    joint, changed = _negative(request, lane, kwargs)
    if joint is not None or pictures is None:
        return Pass(plan, lane, request, joint=joint, answers=answers), changed or left
    start = _start(request, lane, pictures, kwargs)
    passed, changed = _entered(lane, pictures, kwargs)
    return replace(passed, request=request, start=start, answers=answers), changed or left


def negative_prefill(adapter: Adapter, sequence: NegativePrefill, kwargs: Kwargs) -> Begun:
    """The pass of a negative prompt by itself."""
    plan, hidden, pictures = sequence.plan, kwargs["inputs_embeds"], sequence.pictures
    kwargs, cache, past, padding = _cached(plan, kwargs)
    check_no_window(adapter, past + hidden.shape[1])
    lane = Lane(adapter, plan, hidden, past, padding, cache, sequence.asked, pictures, sequence.both_ways)
    lane.notes = sequence.notes
    return (Pass(plan, lane, None), None) if pictures is None else _entered(lane, pictures, kwargs)


def alone(adapter: Adapter, plan: Plan, kwargs: Kwargs) -> Pass:
    """The pass of a decoder that its caller calls by itself."""
    kwargs, cache, past, padding = _cached(plan, kwargs)
    fed = kwargs.get("inputs_embeds")
    fed = kwargs["input_ids"] if fed is None else fed
    if tracked_layers(cache):
        check_arguments(adapter, kwargs)
        check_window(adapter, plan, past + fed.shape[1], False)
    return Pass(plan, Lane(adapter, plan, fed, past, padding, cache), None)


def _entered(lane: Lane, pictures: Pictures, kwargs: Kwargs) -> Begun:
    """A pass with pictures whose `prompt` strategies have acted."""
    text = None
    if lane.plan.text_lane and lane.past == 0 and lane.shows:
        text = TextLane(lane, pictures, side_inputs(lane.adapter, kwargs), per_layer_of(lane.adapter, kwargs))
    return Pass(lane.plan, lane, None, text), prompt.enter(lane, kwargs)


def _past(kwargs: Kwargs) -> int:
    """Positions fed before."""
    cache = given_cache(kwargs)
    return 0 if cache is None else int(cache.get_seq_length())  # fixed slots are counted on the device


def _cached(
    plan: Plan, kwargs: Kwargs, pictures: bool = False, both_ways: BothWays | None = None
) -> tuple[Kwargs, Any, int, Tensor | None]:
    """The inputs of a pass, its cache, how many positions were fed before, and the padding mask over all positions."""
    cache, past = given_cache(kwargs), _past(kwargs)
    # The mask that it is read off is that of layers without a window.
    everywhere = None if both_ways is None or both_ways.windows else both_ways
    kwargs = with_padding_mask(kwargs, past, pictures, everywhere)
    mask = kwargs.get("attention_mask")
    check_continued(plan, cache)
    padding = mask.bool() if isinstance(mask, Tensor) and mask.dim() == 2 else None
    if mask is not None and padding is None and any(layer.makes_mask for layer in tracked_layers(cache)):
        check_mask(mask)
    return kwargs, cache, past, padding


def _layout(request: Request, adapter: Adapter, kwargs: Kwargs) -> tuple[Layout | None, Sequence[TowerRun]]:
    """Find the visual tokens of a pass, from what the language model is about to get; None if it brings no pictures."""
    if not request.runs:
        return None, ()
    placeholders = adapter.placeholders(request.inputs)
    some, mask = next(iter(placeholders.values())), kwargs.get("attention_mask")
    valid = torch.ones_like(some)
    if isinstance(mask, Tensor) and mask.dim() == 2:
        valid = mask[:, -some.shape[1] :].to(some.device).bool()
    runs = joined(adapter, request.runs, placeholders, request.inputs)
    pictures = {run.modality: run.pictures for run in runs}
    return Layout.build(placeholders, pictures, valid, any_of(aside_places(adapter, request.inputs))), runs


def _pictures(
    adapter: Adapter,
    request: Request,
    layout: Layout,
    runs: Sequence[TowerRun],
    asked: int,
    past: int,
    hidden: Tensor,
    kwargs: Kwargs,
) -> Pictures:
    positions = given_positions(kwargs, past, hidden.shape[1], hidden.device)
    ends = Later(lambda: prompt_ends(layout, asked, request.labels))
    record = Record(layout, hidden.shape[1], len(adapter.layers), hidden.element_size())
    answered = answered_counts(layout, ends, asked, request.labels)
    injection = injected(adapter, kwargs) if request.plan else None
    ids = request.inputs.get("input_ids")
    ids = ids if isinstance(ids, Tensor) and ids.shape == hidden.shape[:2] else None
    return Pictures(layout, runs, rotary_positions(positions), ends, answered, record, injection, ids)


def _negative(request: Request, lane: Lane, kwargs: Kwargs) -> tuple[Joint | None, Kwargs | None]:
    """Both lanes and their inputs, where a negative prompt is given the same tokens as the prompt; else None twice."""
    contrast = request.plan.contrast
    if contrast is None or request.outer is None:
        return None, None
    logits.check(request, lane, contrast)
    shows = lane.pictures is not None and lane.shows
    both = None if shows else with_negative(lane, contrast.plan, kwargs)
    return (None, None) if both is None else both


def _start(request: Request, lane: Lane, pictures: Pictures, kwargs: Kwargs) -> Start | None:
    """What a negative prompt, or a rehearsal, starts from in a pass with pictures; None if there is none."""
    contrasts = request.plan.contrast is not None and request.outer is not None
    if not lane.shows or not (contrasts or request.plan.rehearsal is not None):
        return None
    positions = fed_positions(lane.past, kwargs, lane.hidden)
    adapter, side = lane.adapter, side_inputs(lane.adapter, kwargs)
    return Start(request, lane, pictures, lane.hidden, positions, side, per_layer_of(adapter, kwargs))
