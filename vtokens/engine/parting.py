"""The prefill of a negative branch: what it is fed, where it begins, and what is kept of it beside the real cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from vtokens.core.compat import as_cache
from vtokens.engine.arguments import side_inputs
from vtokens.engine.beside import Beside, Start, branch_cache, start_of
from vtokens.engine.cache import Prefix, ReducedLayer
from vtokens.engine.call import Branched, Call
from vtokens.engine.masks import join
from vtokens.engine.negative import Fed, build, with_prompt
from vtokens.strategies.views.logits import Prompt

Run = Callable[[Call, dict[str, Any]], Any]
"""Calls the language model with a branch's call under way."""


@dataclass(frozen=True)
class Rows:
    """The branch's answer to one pass.

    Attributes:
        hidden: (B, T, D), last states of the branch.
        rows: int64 (B, N), its row for each position of the pass, below 0 where it has none; None if they are the same.
        answers: bool (B, N), positions whose logits are contrasted; None if all are.
        step: int64 (B, N), which token of the answer each position predicts; None if nobody knows.
    """

    hidden: Tensor
    rows: Tensor | None
    answers: Tensor | None
    step: Tensor | None

    def at(self, positions: Tensor) -> Tensor:
        """(B, R, D): the branch's states for some positions (R,) of the pass; arbitrary where it has none."""
        hidden, positions = self.hidden, positions.to(self.hidden.device)
        if self.rows is None:
            return hidden[:, positions]
        index = self.rows.to(hidden.device)[:, positions].clamp(min=0)
        return hidden.gather(1, index[..., None].expand(-1, -1, hidden.shape[-1]))


def prefill(call: Call, run: Run) -> Rows:
    """Feed the branch its prompt; what it caches goes beside the cache of the real pass.

    Args:
        call: a pass that brought pictures, ended.
        run: calls the language model.
    """
    plan = call.plan
    assert plan is not None
    assert plan.contrast is not None
    assert plan.negative_kind is not None
    assert call.fed is not None
    other = isinstance(plan.negative_kind, Prompt)
    fed = (
        with_prompt(call, call.prompt or {}, call.adapter) if other else build(call, plan.negative_kind, plan.contrast)
    )
    start = start_of(call.cache)
    cache = None if call.cache is None else branch_cache(call.cache) or _copied(call.cache, call.past)
    if start is not None:
        fed.positions = fed.positions - start.shift.to(fed.positions.device)[:, None]
    mask = _mask(call, fed, start, 0 if cache is None else cache.get_seq_length())
    branch = Call(call.adapter, {"branch": True}, plan=plan.negative, branch_of=call, asked=call.asked)
    branch.layout, branch.seen = fed.layout, fed.seen
    branch.ends = _ends(call, fed)
    inputs = {
        "inputs_embeds": fed.embeds,
        "position_ids": fed.positions,
        **as_cache(call.adapter.language_model, cache),
        **side_inputs(call.adapter, call.fed),
    }
    # Said out loud where nothing is padded: gaps in positions without a mask look like packed sequences.
    total = fed.embeds.shape[1] + (0 if cache is None else cache.get_seq_length())
    said = torch.ones(len(fed.embeds), total, dtype=torch.bool, device=fed.embeds.device) if mask is None else mask
    output = run(branch, {**inputs, "attention_mask": said, "use_cache": cache is not None})
    if call.record is not None:
        found = branch.record
        tokens = 0 if fed.layout is None else sum(fed.layout.counts)
        call.record.branch = Branched(
            fed.embeds.shape[1], tokens, found.views if found else {}, found.attended if found else {}
        )
    seen, before = _seen(call, start)
    if cache is not None:
        _keep(call, cache, Start(
            call.past + call.length, total, mask, _shift(call, fed, start), seen,
            _tail(call, other), call.past + call.length - call.asked,
        ))  # fmt: skip
    answers = _answers(call, fed, before)
    return Rows(output[0], fed.rows, answers, None if cache is None else _step(call))


def _ends(call: Call, fed: Fed) -> Tensor:
    """int64 (B, 1): where the branch's prompts end; noted in `fed.rows`, should the real one end with a picture."""
    assert call.ends is not None
    if fed.rows is None:
        return call.ends
    ends, place = call.ends.to(fed.rows.device), torch.arange(call.length, device=fed.rows.device)
    last = torch.where(place <= ends, fed.rows, -1).amax(1, keepdim=True)
    fed.rows = fed.rows.scatter(1, ends, last)
    return last.clamp(min=0)


def _mask(call: Call, fed: Fed, start: Start | None, past: int) -> Tensor | None:
    """bool (B, past + T), the branch's padding mask; None if nothing is padded."""
    before = call.fed_mask[:, : call.past] if call.fed_mask is not None and call.past else None
    before = before if start is None else start.mask(before, call.past)
    valid = fed.valid
    return join(before, valid, past, fed.embeds.shape[1])


def _answers(call: Call, fed: Fed, before: Tensor | None) -> Tensor:
    """bool (B, N): text behind the first picture of its sample that the branch has too, and the end of the prompt.

    Where that is a picture that the branch has not, what the branch says after the text before it counts.
    """
    assert call.fed_layout is not None
    assert call.ends is not None
    layout, ends = call.fed_layout.to(fed.embeds.device), call.ends.to(fed.embeds.device)
    shown = layout.visual.cumsum(1) > 0
    shown = shown if before is None else shown | before[:, None]
    answers = (layout.image < 0).scatter(1, ends, True) & layout.valid & shown
    return answers if fed.rows is None else answers & (fed.rows >= 0)


def _step(call: Call) -> Tensor:
    """int64 (B, N): the end of the prompt predicts the first token, what stands behind it the next ones."""
    assert call.ends is not None
    return (torch.arange(call.length, device=call.ends.device) - call.ends).clamp(min=0) + 1


def _tail(call: Call, other: bool) -> int:
    """Trailing positions that both have and that may be cropped; of another prompt only candidates behind it."""
    assert call.fed_layout is not None
    return min(call.fed_layout.tail, call.asked - 1) if other else call.fed_layout.tail


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


def _shift(call: Call, fed: Fed, start: Start | None) -> Tensor:
    """int64 (B,): by how much the branch's rotary positions lag behind for what follows."""
    assert call.fed is not None
    if not fed.renumbered:  # as before, even where the branch has not what stands last
        return (
            torch.zeros(len(fed.embeds), dtype=torch.long, device=fed.positions.device)
            if start is None
            else start.shift
        )

    def last(places: Tensor, valid: Tensor | None) -> Tensor:
        places = places if places.dim() == 2 else places.amax(0)
        return (places if valid is None else places.masked_fill(~valid, 0)).amax(1)

    device = fed.positions.device
    valid = None if call.fed_mask is None else call.fed_mask[:, call.past :].to(device)
    return last(call.fed["position_ids"].to(device), valid) - last(fed.positions, fed.valid)


def _copied(cache: Any, past: int) -> DynamicCache:
    """A cache with the first `past` positions of another: without pictures a branch had nothing else to see."""
    copy = DynamicCache()
    for layer in cache.layers if past else ():
        new = DynamicLayer()
        new.update(layer.keys[:, :, :past], layer.values[:, :, :past])
        copy.layers.append(new)
    return copy


def _keep(call: Call, branch: Any, start: Start) -> None:
    """Put the branch's layers beside those of the pass's cache."""
    layers = call.cache.layers
    for index, other in enumerate(branch.layers):
        if not isinstance(layers[index], ReducedLayer):
            stored = layers[index].get_seq_length()
            layers[index] = ReducedLayer.adopt(layers[index], Prefix(stored, stored, None, stored, 0))
        layers[index].beside = Beside(other, start if index == 0 else None)
