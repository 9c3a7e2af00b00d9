"""The `logits` stage: after the model's forward pass, logits of the answer are replaced by contrasted ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vtokens.engine import joint
from vtokens.engine.beside import Start, start_of
from vtokens.engine.cache import held
from vtokens.engine.call import Call
from vtokens.engine.parting import Rows, Run, prefill
from vtokens.layout import Layout
from vtokens.strategies.heads import VISUAL
from vtokens.strategies.logits import Logits, Prompt


def enter(
    call: Call, layout: Layout | None, prompt: Mapping[str, Any] | None, kwargs: dict[str, Any]
) -> dict[str, Any] | None:
    """Let the negative branch into a pass that feeds both the same, or keep what it will start from.

    Args:
        call: the pass.
        layout: where its visual tokens sit; None if it brings no pictures.
        prompt: the negative prompt that was given for it, if one was.
        kwargs: what the language model is about to get.

    Returns:
        What the language model is to get instead; None if nothing else.

    Raises:
        ValueError: the pass cannot be contrasted.
    """
    assert call.plan is not None
    pictures = layout is not None and any(layout.counts)
    _check_cache(call)
    if not pictures:
        return joint.enter(call, Call(call.adapter, {"branch": True}, plan=call.plan.negative, branch_of=call), kwargs)
    _check_pass(call, prompt)
    hidden = kwargs["inputs_embeds"]
    call.fed = {"inputs_embeds": hidden, "position_ids": joint.fed_positions(call, kwargs, hidden)}
    return None


def leave(
    call: Call,
    output: Any,
    keep: Any,
    head: Callable[[Tensor], Tensor],
    prompt: Mapping[str, Any] | None,
    run: Run,
) -> Any:
    """The model's output with contrasted logits.

    Args:
        call: the pass, ended.
        output: of the model with logits.
        keep: `logits_to_keep` as it was given.
        head: from states (B, R, D) to logits.
        prompt: the negative prompt, if one was given.
        run: calls the language model.
    """
    found = _follow(call) if call.joint is not None else prefill(call, prompt, run)
    logits = output[0] if isinstance(output, tuple) else output.logits
    changed = contrast(call, found, logits, keep, head)
    if isinstance(output, tuple):
        return (changed, *output[1:])
    output.logits = changed
    return output


def _check_cache(call: Call) -> None:
    # What stood in the cache before is fed to nobody again, so a branch cannot make up for pictures it never saw.
    start, first = start_of(call.cache), held(call.cache, 0)
    if first is not None and first.beside is not None and start is not None:
        since, own = call.past - start.fed, first.beside.layer.get_seq_length() - start.length
        if since != own:
            raise ValueError(
                f"this cache went on for {since} positions without its negative branch, which got {own} of them: keep "
                "the strategy attached, or start with an empty cache"
            )
    if (
        call.past
        and start is None
        and first is not None
        and (not first.prefix.plain or VISUAL in first.prefix.memory.keys)
    ):
        raise ValueError(
            "this cache holds pictures that no negative branch went along with: start with an empty cache, or keep "
            "the strategy attached from the first turn on"
        )


def _check_pass(call: Call, prompt: Mapping[str, Any] | None) -> None:
    assert call.plan is not None
    assert call.opened is not None
    if call.opened.labels is not None:
        raise ValueError(
            "labels under a contrastive strategy: the model would compute its loss from logits that are not "
            "contrasted, and contrasted ones are minus infinity for what was ruled out. Leave labels out and score "
            "the logits, or detach() the strategy for training"
        )
    if not isinstance(call.plan.negative_kind, Prompt):
        return
    if prompt is None:
        raise ValueError(
            "this strategy holds the answer against that to another prompt, and none was given: "
            "with vtokens.attachment(model).negative_prompt(**processor(...)): model.generate(...)"
        )
    if call.past:
        raise ValueError(
            "a negative prompt begins with an empty cache: give the whole conversation again, without the cache"
        )


def _follow(call: Call) -> Rows:
    """What the branch said in a joint pass."""
    assert call.beside is not None
    assert call.beside.hidden is not None
    hidden, start = call.beside.hidden, start_of(call.cache)
    assert start is not None
    length = hidden.shape[1]
    if length > call.asked:  # a new prompt, with an answer of its own
        start = _answering(call.cache, call.past + length - call.asked)
    step = (torch.arange(length) + call.past - start.answer).clamp(min=0) + 1
    seen = None if start.seen is None else start.seen[:, None].expand(-1, length)
    return Rows(hidden, None, seen, step)


def contrast(call: Call, found: Rows, logits: Tensor, keep: Any, head: Callable[[Tensor], Tensor]) -> Tensor:
    """Logits (B, R, V) with those of the answer contrasted.

    Args:
        call: the pass.
        found: what the branch said.
        logits: those of the real pass.
        keep: which positions they are of, as `logits_to_keep`.
        head: from states (B, R, D) to logits.
    """
    assert call.plan is not None
    assert call.plan.contrast is not None
    total = call.length or found.hidden.shape[1]
    device = found.hidden.device
    at = torch.arange(total, device=device)
    at = at[keep.to(device)] if isinstance(keep, Tensor) else at[-keep or None :]
    if found.rows is None:
        hidden = found.hidden[:, at]
    else:
        index = found.rows.to(device)[:, at].clamp(min=0)
        hidden = found.hidden.gather(1, index[..., None].expand(-1, -1, found.hidden.shape[-1]))
    step = None if found.step is None else found.step.to(logits.device)[at.to(logits.device)][None]
    view = Logits(logits.float(), head(hidden).to(logits.device).float(), step)
    changed = call.plan.contrast.at_logits(view).to(logits.dtype)
    if call.record is not None and view.told:
        call.record.told.append((call.plan.contrast, view.told))
    if found.answers is None:
        return changed
    answers = found.answers.to(logits.device)[:, at.to(logits.device)]
    return torch.where(answers[..., None], changed, logits)


def _answering(cache: Any, answer: int) -> Start:
    """Note in `cache` where a new answer begins."""
    beside = cache.layers[0].beside
    beside.start = replace(beside.start, answer=answer)
    return beside.start
