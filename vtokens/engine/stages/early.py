"""Logits of states that have not gone through all layers, for `logits` strategies that compare with them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vtokens.adapters import Adapter
from vtokens.adapters.decoder import mlp_of
from vtokens.adapters.output import finished
from vtokens.core.columns import columns_of
from vtokens.core.on_device import on_device
from vtokens.engine.checks.outside import norm_of
from vtokens.engine.forward import Pass
from vtokens.engine.stages.rows import row_wise
from vtokens.engine.state.lane import Lane
from vtokens.engine.state.request import Request
from vtokens.engine.state.view import columns_at, gather
from vtokens.kernels.attention_rows import chunk_of


def kept(request: Request, length: int) -> Tensor:
    """int64 (R,): the positions, of `length` fed ones, that the model gives logits of."""
    keep = 0 if request.outer is None else request.outer.returned
    return torch.arange(length)[keep.cpu() if isinstance(keep, Tensor) else slice(-keep or None, None)]


def note(passed: Pass, index: int, hidden: Tensor) -> None:
    """Keep, of states (B, W, D) that enter decoder layer `index`, those at which logits are asked for.

    Where a position was dropped, as pictures' are, it gets arbitrary ones: no answer's logits stand there.
    """
    lane, request = passed.main, passed.request
    if index not in passed.plan.early or passed.answers is None or request is None:
        return
    device = hidden.device
    positions = lane.once(("kept", device), lambda: on_device(kept(request, lane.length), device))
    view = lane.view
    if view is None:
        lane.early[index], lane.early_columns[index] = hidden[:, positions], positions.expand(len(hidden), -1)
        return
    columns = lane.once(("columns", view), lambda: columns_at(view.index, view.real, lane.length))
    lane.early_columns[index] = columns.to(hidden.device)[:, positions].clamp(min=0)
    lane.early[index] = gather(hidden, lane.early_columns[index], 1)


def logits_of(adapter: Adapter, lane: Lane, head: Any, index: int, normed: bool) -> Tensor:
    """float32 (B, R, V): logits of the states that entered decoder layer `index`.

    Raises:
        ValueError: nobody asked for them beforehand.
    """
    if index not in lane.early:
        raise ValueError(f"logits of layer {index} are asked for, and Needs(early=...) names {sorted(lane.early)}")
    states = lane.early[index]
    states = norm_of(adapter, "a strategy")(states) if normed else states
    return finished(adapter, head(states)).float()


def logits_of_sent(adapter: Adapter, lane: Lane, head: Any, index: int, entering: float) -> Tensor | None:
    """float32 (B, R, V): logits of head outputs that went from the attention of layer `index` past all others.

    Their output projection gives o; with x, what entered the last layer, u = norm(o) + entering x by the norm before
    its attention, and what leaves it is u + mlp(norm(u)). None where nothing was sent.
    """
    if index not in lane.sent:
        return None
    layers = adapter.layers
    last, depth, project = layers[-1], len(layers), row_wise(layers[index], "o_proj")
    if project is None:
        raise RuntimeError(f"decoder layer {index} has no o_proj any more")
    states = last.input_layernorm(project(lane.sent[index].flatten(2))) + entering * lane.early[depth - 1]
    added = mlp_of(last)(last.post_attention_layernorm(states))
    states = norm_of(adapter, "a strategy")(states + (added[0] if isinstance(added, tuple) else added))
    return finished(adapter, head(states)).float()


def grounding(lane: Lane, head: Any) -> Tensor | None:
    """float32 (B, V): the most that the last state of any visual token predicts of each word; None without pictures.

    Made of a few tokens at a time, so that no logits of the whole picture are held.
    """
    if lane.final is None or lane.layout is None:
        return None
    most, words = max(lane.layout.per_sample()), head.weight.shape[0]
    if not most:
        return torch.zeros(len(lane.final), words, device=lane.final.device)
    index, real = columns_of(lane.layout_on(lane.final.device).visual, most)
    step = max(1, chunk_of(lane.final.device) // (len(index) * words))
    found: list[Tensor] = []
    for first in range(0, most, step):
        part = slice(first, first + step)
        share = finished(lane.adapter, head(gather(lane.final, index[:, part], 1))).float().softmax(-1)
        share = share.masked_fill(~real[:, part, None].to(share.device), 0).amax(1)
        found = [torch.maximum(found[0], share) if found else share]
    return found[0]
