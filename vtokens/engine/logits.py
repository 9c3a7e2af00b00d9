"""The `logits` stage: after the model's forward pass, logits of the answer are replaced by contrasted ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vtokens.core.layout import Layout
from vtokens.engine import joint
from vtokens.engine.arguments import side_inputs
from vtokens.engine.beside import Start, start_of
from vtokens.engine.cache import held
from vtokens.engine.call import Call
from vtokens.engine.parting import Run, prefill
from vtokens.strategies.views.heads import VISUAL
from vtokens.strategies.views.logits import Logits, Prompt


def enter(call: Call, layout: Layout | None, kwargs: dict[str, Any]) -> dict[str, Any] | None:
    """Let the negative branch into a pass that feeds both the same, or keep what it will start from.

    Args:
        call: the pass.
        layout: where its visual tokens sit; None if it brings no pictures.
        kwargs: what the language model is about to get.

    Returns:
        What the language model is to get instead; None if nothing else.

    Raises:
        ValueError: the pass cannot be contrasted.
    """
    assert call.plan is not None
    _check_pass(call)
    if layout is None or not any(layout.counts):
        return joint.enter(call, Call(call.adapter, {"branch": True}, plan=call.plan.negative, branch_of=call), kwargs)
    _check_prompt(call)
    hidden = kwargs["inputs_embeds"]
    call.fed = {"inputs_embeds": hidden, "position_ids": joint.fed_positions(call, kwargs, hidden)}
    call.fed |= side_inputs(call.adapter, kwargs)
    return None


def both(call: Call, hidden: Tensor) -> Tensor:
    """States (B, R, D) on their way to logits, with those of the branch of a joint pass behind them."""
    assert call.beside is not None
    assert call.beside.hidden is not None
    assert call.hidden is not None
    return torch.cat([hidden, call.beside.hidden[:, _kept(call, call.hidden.shape[1])].to(hidden.device)])


def apart(call: Call, logits: Tensor) -> Tensor:
    """Those of the sequence (B, R, V) alone; the branch's are kept."""
    assert call.beside is not None
    real, call.beside.logits = logits.chunk(2)
    return real


def leave(call: Call, output: Any, run: Run) -> Any:
    """The model's output with contrasted logits.

    Args:
        call: the pass, ended.
        output: of the model with logits.
        run: calls the language model.
    """
    logits = output[0] if isinstance(output, tuple) else output.logits
    step: Tensor | None
    if call.beside is not None:
        assert call.hidden is not None
        assert call.beside.logits is not None
        at, negative = _kept(call, call.hidden.shape[1]), call.beside.logits
        answers, step = _follow(call, call.hidden.shape[1])
    else:
        at, found = _kept(call, call.length), prefill(call, run)
        negative = call.adapter.model.get_output_embeddings()(found.at(at))
        answers, step = found.answers, found.step
    changed = _contrast(call, logits, negative, None if step is None else step[:, at.to(step.device)])
    if answers is not None:
        changed = torch.where(answers[:, at.to(answers.device)].to(logits.device)[..., None], changed, logits)
    if isinstance(output, tuple):
        return (changed, *output[1:])
    output.logits = changed
    return output


def _kept(call: Call, length: int) -> Tensor:
    """int64 (R,): the positions, of `length` fed ones, that the caller wants logits of."""
    assert call.opened is not None
    keep = call.opened.keep
    return torch.arange(length)[keep.cpu() if isinstance(keep, Tensor) else slice(-keep or None, None)]


def _contrast(call: Call, logits: Tensor, negative: Tensor, step: Tensor | None) -> Tensor:
    """(B, R, V): what the strategy makes of both."""
    assert call.plan is not None
    assert call.plan.contrast is not None
    step = None if step is None else step.to(logits.device)
    view = Logits(logits.float(), negative.to(logits.device).float(), step)
    changed = call.plan.contrast.at_logits(view).to(logits.dtype)
    if call.record is not None and view.told:
        call.record.told.append((call.plan.contrast, view.told))
    return changed


def _check_pass(call: Call) -> None:
    assert call.opened is not None
    start, first = start_of(call.cache), held(call.cache, 0)
    if call.opened.labels is not None and (start is not None or call.seen):
        raise ValueError(
            "labels under a contrastive strategy: the model would compute its loss from logits that are not "
            "contrasted, and contrasted ones are minus infinity for what was ruled out. Leave labels out and score "
            "the logits, or detach() the strategy for training"
        )
    if first is not None and first.beside is not None and start is not None:
        since, own = call.past - start.fed, first.beside.layer.get_seq_length() - start.length
        if since != own:
            raise ValueError(
                f"this cache went on for {since} positions without its negative branch, which got {own} of them: keep "
                "the strategy attached, or start with an empty cache"
            )
    # What stands in the cache is fed to nobody again, so a branch cannot make up for pictures it never saw.
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


def _check_prompt(call: Call) -> None:
    assert call.plan is not None
    if not isinstance(call.plan.negative_kind, Prompt):
        return
    if call.prompt is None:
        raise ValueError(
            "this strategy holds the answer against that to another prompt, and none was given: "
            "with vtokens.attachment(model).negative_prompt(**processor(...)): model.generate(...)"
        )
    if call.past:
        raise ValueError(
            "a negative prompt begins with an empty cache: give the whole conversation again, without the cache"
        )


def _follow(call: Call, length: int) -> tuple[Tensor | None, Tensor]:
    """What a joint pass contrasts, bool (B, length), None for all; int64 (1, length), their places in the answer."""
    start = start_of(call.cache)
    assert start is not None
    if length > call.asked:  # a new prompt, with an answer of its own
        start = _answering(call.cache, call.past + length - call.asked)
    step = (torch.arange(length) + call.past - start.answer).clamp(min=0)[None] + 1
    return None if start.seen is None else start.seen[:, None].expand(-1, length), step


def _answering(cache: Any, answer: int) -> Start:
    """Note in `cache` where a new answer begins."""
    beside = cache.layers[0].beside
    beside.start = replace(beside.start, answer=answer)
    return beside.start
