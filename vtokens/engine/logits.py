"""The `logits` stage: after the model's forward pass, logits of the answer are replaced by contrasted ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from vtokens.engine.beside import Beside, Start, branch_cache, start_of
from vtokens.engine.cache import Prefix, ReducedLayer, held
from vtokens.engine.call import Branched, Call
from vtokens.engine.negative import Fed, build, with_prompt
from vtokens.strategies.heads import VISUAL
from vtokens.strategies.logits import Logits, Prompt


@dataclass(frozen=True)
class Rows:
    """The branch's answer to one pass.

    Attributes:
        hidden: (B, T, D), last states of the branch.
        rows: int64 (B, N), its row for each position of the pass, below 0 where it has none; None if they are the same.
        answers: bool (B, N), positions whose logits are contrasted; None if all are.
        step: int64 (N,), which token of the answer each position predicts; None if nobody knows.
    """

    hidden: Tensor
    rows: Tensor | None
    answers: Tensor | None
    step: Tensor | None


def check_pass(call: Call, labels: Any, prompt: Mapping[str, Any] | None) -> None:
    """Raise `ValueError` if a pass that brings pictures cannot be contrasted."""
    assert call.plan is not None
    if labels is not None:
        raise ValueError(
            "labels under a contrastive strategy: the model would compute its loss from logits that are not "
            "contrasted, and contrasted ones are minus infinity for what was ruled out. Leave labels out and score "
            "the logits, or detach() the strategy for training"
        )
    if isinstance(call.plan.negative_kind, Prompt) and prompt is None:
        raise ValueError(
            "this strategy holds the answer against that to another prompt, and none was given: "
            "with vtokens.attachment(model).negative_prompt(**processor(...)): model.generate(...)"
        )
    # What stood in the cache before is fed to nobody again, so a branch that never saw it has to take it over.
    first = held(call.cache, 0)
    if (
        call.past
        and start_of(call.cache) is None
        and first is not None
        and (not first.prefix.plain or VISUAL in first.prefix.memory.keys)
    ):
        raise ValueError(
            "this cache holds pictures that no negative branch went along with: start with an empty cache, or keep "
            "the strategy attached from the first turn on"
        )
    if isinstance(call.plan.negative_kind, Prompt) and call.past:
        raise ValueError(
            "a negative prompt begins with an empty cache: give the whole conversation again, without cache"
        )


def prefill(call: Call, prompt: Mapping[str, Any] | None, run: Callable[[Call, dict[str, Any]], Any]) -> Rows:
    """Feed the branch its prompt; what it caches goes beside the real pass's cache.

    Args:
        call: a pass that brought pictures, ended.
        prompt: the negative prompt that was given for it, if one was.
        run: calls the language model with a branch's call under way.
    """
    plan = call.plan
    assert plan is not None
    assert plan.contrast is not None
    assert call.fed_layout is not None
    kind = plan.negative_kind
    assert kind is not None
    other = isinstance(kind, Prompt)
    fed = with_prompt(call, prompt or {}, call.adapter) if other else build(call, kind, plan.contrast)
    cache, start = call.cache, start_of(call.cache)
    own = None if cache is None else branch_cache(cache) if start is not None else _copied(cache, call.past)
    past = 0 if own is None else own.get_seq_length()
    if start is not None and past != start.length + call.past - start.fed:
        raise ValueError("this cache went on without its negative branch: keep the strategy attached all along")
    branch = Call(call.adapter, {"branch": True}, plan=plan.negative, branch_of=call, asked=call.asked)
    branch.layout, branch.seen = fed.layout, fed.seen
    before = call.fed_mask[:, : call.past] if call.fed_mask is not None else None
    before = before if start is None else start.mask(before, call.past)
    positions = fed.positions
    if start is not None:
        positions = positions - start.shift.to(positions.device)[:, None]
    valid = fed.valid
    if valid is not None or before is not None:
        batch, length, device = *fed.embeds.shape[:2], fed.embeds.device
        before = torch.ones(batch, past, device=device, dtype=torch.bool) if before is None else before.to(device)
        now = torch.ones(batch, length, device=device, dtype=torch.bool) if valid is None else valid.to(device)
        valid = torch.cat([before, now], 1)
    # Said out loud where nothing is padded: gaps in positions without a mask look like packed sequences.
    mask = torch.ones(len(fed.embeds), past + fed.embeds.shape[1], device=fed.embeds.device) if valid is None else valid
    output = run(
        branch,
        {
            "inputs_embeds": fed.embeds,
            "position_ids": positions,
            "attention_mask": mask.bool(),
            "past_key_values": own,
            "use_cache": own is not None,
        },
    )
    if call.record is not None:
        views = {} if branch.record is None else branch.record.views
        attended = {} if branch.record is None else branch.record.attended
        tokens = 0 if fed.layout is None else sum(fed.layout.counts)
        call.record.branch = Branched(fed.embeds.shape[1], tokens, views, attended)
    layout = call.fed_layout.to(fed.embeds.device)
    seen, more = _seen(call, start)
    if cache is not None:
        assert own is not None
        shift = _shift(call, fed, positions)
        tail = min(layout.tail, call.asked - 1) if other else layout.tail
        fed_now = call.past + call.length
        new = Start(fed_now, past + fed.embeds.shape[1], valid, shift, seen, tail, fed_now - call.asked)
        _beside(cache, own, new)
    shown = layout.visual.cumsum(1) > 0
    shown = shown if more is None else shown | more[:, None]
    answers = layout.valid & (layout.image < 0) & shown
    if fed.rows is not None:
        answers = answers & (fed.rows >= 0)
    step = None
    if cache is not None:
        step = (torch.arange(call.length, device=answers.device) - (call.length - call.asked)).clamp(min=0) + 1
    return Rows(output[0], fed.rows, answers, step)


def follow(call: Call) -> Rows:
    """What the branch said in a joint pass."""
    assert call.beside is not None
    assert call.beside.hidden is not None
    hidden, start = call.beside.hidden, start_of(call.cache)
    assert start is not None
    length = hidden.shape[1]
    if length > call.asked:  # a new prompt, with an answer of its own
        start = _answering(call.cache, call.past + length - call.asked)
    step = (torch.arange(length, device=hidden.device) + call.past - start.answer).clamp(min=0) + 1
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


def _seen(call: Call, start: Start | None) -> tuple[Tensor | None, Tensor | None]:
    """Samples that have pictures now (None: all have), and those that had some before this pass (None: none had)."""
    assert call.fed_layout is not None
    batch, device = call.fed_layout.visual.shape[0], call.fed_layout.visual.device
    everyone = torch.ones(batch, dtype=torch.bool, device=device)
    before = None if start is None else everyone if start.seen is None else start.seen.to(device)
    owners = set(call.fed_layout.owner)
    if len(owners) == batch or (start is not None and start.seen is None):
        return None, before
    now = torch.tensor([row in owners for row in range(batch)]).to(device)
    return now if before is None else now | before, before


def _shift(call: Call, fed: Fed, positions: Tensor) -> Tensor:
    """int64 (B,): by how much the branch's rotary positions lag behind for what follows."""
    assert call.fed is not None

    def last(places: Tensor, valid: Tensor | None) -> Tensor:
        places = places if places.dim() == 2 else places.amax(0)
        return (places if valid is None else places.masked_fill(~valid, 0)).amax(1)

    valid = None if call.fed_mask is None else call.fed_mask[:, call.past :].to(positions.device)
    return last(call.fed["position_ids"].to(positions.device), valid) - last(positions, fed.valid)


def _copied(cache: Any, past: int) -> DynamicCache:
    """A cache with the first `past` positions of another."""
    copy = DynamicCache()
    for layer in cache.layers if past else ():
        new = DynamicLayer()
        new.update(layer.keys[:, :, :past], layer.values[:, :, :past])
        copy.layers.append(new)
    return copy


def _beside(cache: Any, branch: Any, start: Start) -> None:
    """Put the branch's layers beside those of `cache`."""
    for index, (layer, other) in enumerate(zip(cache.layers, branch.layers, strict=True)):
        if not isinstance(layer, ReducedLayer):
            stored = layer.get_seq_length()
            layer = cache.layers[index] = ReducedLayer.adopt(layer, Prefix(stored, stored, None, stored, 0))
        layer.beside = Beside(other, start if index == 0 else None)


def _answering(cache: Any, answer: int) -> Start:
    """Note in `cache` where a new answer begins."""
    beside = cache.layers[0].beside
    beside.start = Start(**{**vars(beside.start), "answer": answer})
    return beside.start
