"""The passes that bring pictures: reading their layout, letting strategies act, cutting the decoder's inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from vtokens.core.compat import given_cache
from vtokens.core.layout import Layout
from vtokens.engine.arguments import check_arguments
from vtokens.engine.cache import check_cache
from vtokens.engine.call import Call, Record
from vtokens.engine.fold import Unmerging, rotary_positions
from vtokens.engine.masks import join
from vtokens.engine.prompt_end import asked_for, prompt_ends
from vtokens.engine.recompute import check_decoder_runs_once
from vtokens.engine.reduction import View, gather, reduce, spread
from vtokens.strategies.base import Strategy
from vtokens.strategies.selection import Selection
from vtokens.strategies.views.visuals import Visuals


def read_layout(call: Call, kwargs: dict[str, Any]) -> Layout | None:
    """Find the visual tokens of a pass, from what the language model is about to get; None if it brings no pictures."""
    if not call.seen:
        return None
    placeholders = call.adapter.placeholders(call.inputs)
    some, mask = next(iter(placeholders.values())), kwargs.get("attention_mask")
    valid = torch.ones_like(some)
    if isinstance(mask, Tensor) and mask.dim() == 2:
        valid = mask[:, -some.shape[1] :].to(some.device).bool()
    return Layout.build(placeholders, {seen.modality: seen.pictures for seen in call.seen}, valid)


def find_ends(call: Call, layout: Layout | None, length: int) -> None:
    """Note in `call` where the prompts of a pass of `length` positions end; see `prompt_end`."""
    opened = call.opened
    call.asked = 1 if opened is None else asked_for(opened.keep, length)
    if layout is None:
        return
    if call.asked - 1 > layout.tail:  # logits of pictures, or of what stands before them: that is no answer
        call.asked = 1
    call.ends = prompt_ends(layout, call.asked, None if opened is None else opened.labels)


def refuse(call: Call, kwargs: dict[str, Any]) -> None:
    """Raise `ValueError` if a pass cannot be pruned; says why and the way out.

    Args:
        call: the pass.
        kwargs: what the language model is about to get.
    """
    if not call.seen:
        if call.inputs.get("inputs_embeds") is not None and call.past == 0:
            raise ValueError(
                "inputs_embeds without pixel_values do not tell where their visual tokens are: pass input_ids and "
                "pixel_values, or inputs_embeds with placeholder embeddings and pixel_values, or detach() first"
            )
        return
    check_arguments(call.adapter, kwargs)
    language_model = call.adapter.language_model
    if kwargs.get("output_attentions") or getattr(language_model.config, "output_attentions", False):
        raise ValueError(
            "output_attentions=True cannot be met while tokens are dropped: layers see different lengths. "
            "Use handle.report() for what was kept, or detach() the strategy first"
        )
    check_decoder_runs_once(call.adapter)
    check_cache(given_cache(kwargs))  # first, since transformers prepares the mask for a static cache itself
    mask = kwargs.get("attention_mask")
    if mask is not None and (not isinstance(mask, Tensor) or mask.dim() != 2):
        raise ValueError(
            "only a 2-D attention_mask (batch, length) can be cut to the tokens kept: pass the padding mask, "
            "not a prepared one, or detach() the strategy"
        )


def enter(call: Call, layout: Layout, strategies: Sequence[Strategy], kwargs: dict[str, Any]) -> dict[str, Any] | None:
    """Let the `prompt` strategies act; returns the language model's cut inputs, None if nothing was dropped."""
    hidden = kwargs["inputs_embeds"]
    call.layout = call.fed_layout = layout
    call.length = hidden.shape[1]
    if call.past == 0 and not layout.padded:
        call.fed_mask = None  # a mask of ones: knowing so keeps the attention's fast path
    call.record = Record(layout, call.length, len(call.adapter.layers), hidden.element_size())
    position_ids = kwargs.get("position_ids")
    if position_ids is None:
        position_ids = torch.arange(call.past, call.past + call.length, device=hidden.device)[None]
    call.positions = rotary_positions(position_ids)
    for strategy in strategies:
        hidden = select(call, strategy, strategy.at_prompt, hidden)
    call.entry, call.rows = call.view, None
    if call.view is None:
        return None
    before = None if call.fed_mask is None else call.fed_mask[:, : call.past]
    after = call.view.mask(None if call.fed_mask is None else call.fed_mask[:, call.past :])
    allowed = join(before, after, call.past, hidden.shape[1])
    if allowed is None:  # said out loud, since gaps in position_ids without a mask look like packed sequences
        allowed = torch.ones(len(hidden), call.past + hidden.shape[1], dtype=torch.bool, device=hidden.device)
    position_ids = gather(position_ids, call.view.index, position_ids.dim() - 1)
    return dict(kwargs, inputs_embeds=hidden, attention_mask=allowed, position_ids=position_ids)


def select(call: Call, strategy: Strategy, stage: Callable[[Visuals], Selection | None], hidden: Tensor) -> Tensor:
    """Let one strategy act on the states (B, W, D); returns those that go on."""
    assert call.layout is not None
    assert call.record is not None
    layout = call.layout = call.layout.to(hidden.device)
    if not any(layout.counts):
        return hidden
    with call.record.selecting(hidden.device):
        selection = stage(Visuals(hidden, layout, strategy.grouping, call))
        if selection is None:
            return hidden
        if selection.member is not None and not strategy.unmerges():
            raise ValueError(
                f"{strategy.name!r} says which token goes on for those it drops (Selection.member) without having said "
                "that it would: let its unmerges() return True, so that attention is prepared for it"
            )
        groups, view = layout.groups(strategy.grouping), call.view
        stay = groups.scatter(selection.keep, layout.visual)
        counts = selection.counts if strategy.grouping == "image" else None
        reduced = reduce(layout, stay, layout.count(stay) if counts is None else counts, call.view)
        if reduced is None:
            return hidden
        call.view, rows = reduced
        call.record.reduced.append((strategy, layout.counts, call.view.layout.counts))
        call.layout = call.view.layout
        _leave(call, layout, view)
        if selection.member is not None:
            assert call.positions is not None
            stands = groups.stand(selection.member, layout.visual)
            call.unmerging = Unmerging(view, layout, stands, call.view.group, call.positions)
        call.rows = rows if call.rows is None else call.rows.to(rows.device).gather(1, rows)
        return gather(hidden, rows, 1)


def _leave(call: Call, before: Layout, view: View | None) -> None:
    """Note what a sample had that has nothing any more: which tokens were its last."""
    assert call.layout is not None
    gone = [had > 0 and not has for had, has in zip(before.per_sample(), call.layout.per_sample(), strict=True)]
    if any(gone):
        last = before.visual & torch.tensor(gone).to(before.visual.device)[:, None]
        last = spread(last.long(), view, call.length) > 0
        call.left = last if call.left is None else call.left.to(last.device) | last
