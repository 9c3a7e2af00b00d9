"""One pass over a sequence and its negative branch, where both get the same tokens: the weights are read once.

Only attention is done apart, each half over its own cache, so that neither is padded to the other's length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vtokens.core.compat import swap_cache
from vtokens.engine.arguments import check_arguments
from vtokens.engine.attention import Attention
from vtokens.engine.beside import Joint, branch_cache, start_of
from vtokens.engine.call import Call
from vtokens.engine.decoder import own_mask
from vtokens.engine.window import check_window


def enter(call: Call, branch: Call, kwargs: dict[str, Any]) -> dict[str, Any] | None:
    """The language model's inputs with the rows of the branch behind those of the sequence.

    Args:
        call: the pass; brings no pictures.
        branch: a new one, for the branch.
        kwargs: what the language model is about to get.

    Returns:
        None if the cache holds no branch.
    """
    start, cache = start_of(call.cache), branch_cache(call.cache)
    if start is None or cache is None:
        return None
    hidden = kwargs["inputs_embeds"]
    total = call.past + hidden.shape[1]
    branch.cache, branch.past = cache, start.length + call.past - start.fed
    # Another prompt may be the longer one of the two.
    check_window(call.adapter.language_model.config, branch.past + hidden.shape[1])
    check_arguments(call.adapter, kwargs)
    branch.fed_mask = start.mask(call.fed_mask, total)
    call.beside, call.joint = branch, Joint(call.cache, cache)
    positions = fed_positions(call, kwargs, hidden)
    other = positions - start.shift.to(positions.device)[:, None]
    # The layers' own hooks put in the masks; four dimensions tell the language model not to make one.
    return dict(
        swap_cache(call.adapter.language_model, kwargs, call.joint),
        inputs_embeds=torch.cat([hidden, hidden]),
        position_ids=torch.cat([positions, other], positions.dim() - 2),
        attention_mask=hidden.new_zeros(1, 1, 1, 1),
    )


def fed_positions(call: Call, kwargs: dict[str, Any], hidden: Tensor) -> Tensor:
    """int64 (B, W) or (3, B, W): rotary positions of a pass, made as the language model does if it is given none."""
    positions = kwargs.get("position_ids")
    if positions is None:
        positions = torch.arange(call.past, call.past + hidden.shape[1], device=hidden.device)[None]
    if len(positions) == 4 and positions.dim() == 3:
        positions = positions[1:]  # a row for text, that only tells packed sequences apart
    return positions.expand(*positions.shape[:-2], len(hidden), -1)


def adjust(call: Call, index: int, hidden: Tensor, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments of decoder layer `index`; each half's mask is kept for its attention."""
    for part, states in zip(_parts(call), hidden.chunk(2), strict=True):
        part.hidden = states
        part.mask = own_mask(part, index, part.cache, states)
    return dict(kwargs, attention_mask=None, position_ids=None)


def attend(
    call: Call, index: int, attention: Attention, run: Callable[[Call, int, Attention], tuple[Tensor, Any]]
) -> tuple[Tensor, Any]:
    """Run both halves of an attention call, each over its own keys and values."""
    assert call.joint is not None
    outputs = [
        run(part, index, replace(attention, query=query, key=key, value=value, mask=part.mask))[0]
        for part, query, (key, value) in zip(_parts(call), attention.query.chunk(2), call.joint.halves, strict=True)
    ]
    return torch.cat(outputs), None


def leave(call: Call, output: Any) -> Any:
    """The language model's output for the sequence alone; the branch's last states go to its call."""
    assert call.beside is not None
    call.beside.hidden = output[0].chunk(2)[1]

    def first(part: Any) -> Any:
        if isinstance(part, Tensor):
            return part.chunk(2)[0]
        if isinstance(part, tuple):
            return tuple(first(inner) for inner in part)
        return call.cache if isinstance(part, Joint) else part

    if isinstance(output, tuple):
        return first(output)
    for name, part in list(output.items()):
        output[name] = first(part)
    return output


def _parts(call: Call) -> tuple[Call, Call]:
    assert call.beside is not None
    return call, call.beside
