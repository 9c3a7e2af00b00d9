"""Contrast passes: the same response behind a prompt without the picture, a blank one, or other visual tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from vtokens.engine.attach import without
from vtokens.filter.trace.assemble import Places
from vtokens.filter.trace.measure import likelihood
from vtokens.filter.trace.prompts import ResponseBatch
from vtokens.filter.trace.recorder import Tape, recording
from vtokens.filter.trace.trace import Parts, Trace
from vtokens.strategies.base import Strategy
from vtokens.strategies.selection import Selection
from vtokens.strategies.views.visuals import Visuals

CORE = 0.25
"""Share of a sample's visual tokens, those that its response attends to most, that counts as what matters to it where
no pruner says so."""


ATTENDED = 2 / 3
"""Share of the visual tokens that are left which counts as attended."""


@dataclass(frozen=True)
class Only(Strategy):
    """Keeps given visual tokens: `stay` is bool (B, N) over the first positions fed, which hold all of them."""

    name: ClassVar[str] = "only"
    stay: Tensor = field(compare=False)

    def at_prompt(self, visuals: Visuals) -> Selection:
        groups = visuals.layout.groups(visuals.grouping)
        behind = visuals.layout.visual.shape[1] - self.stay.shape[1]
        return Selection(groups.gather(torch.nn.functional.pad(self.stay, (0, behind))) & visuals.valid)


def contrast(
    model: PreTrainedModel, given: ResponseBatch, tape: Tape, places: Places, traces: list[Trace]
) -> list[Trace]:
    """Fill in `contrasts` and `divergence` of traces; a pass for each.

    Args:
        model: with its strategies attached: they run where there is a picture, without those that prune in "dropped".
        given: prompts and responses.
        tape: what the pass over the full prompts left.
        places: the visual tokens of that pass.
        traces: one a response; changed in place and returned.

    Raises:
        ValueError: "dropped" is asked for, but neither a pruner nor recorded attention says what matters; or what is
            attended to, and no attention was recorded.
    """
    parts = tape.parts
    for name in sorted(parts.contrasts | ({"no_image"} if parts.divergence else set())):
        if name == "no_image":
            found = _without(model, given, tape, traces)
        elif name == "blank":
            with without(model, {"logits"}):
                found = _likely(cast(Any, model)(**given.blank(tape.adapter)), given)
        else:
            stay = _rest(places, traces) if name == "dropped" else _looked_at(places, traces, name == "attended")
            with without(model, {"encode", "prompt", "layer", "logits"}, Only(stay)):
                found = _likely(cast(Any, model)(**given.full(tape.adapter)), given)
        for row, trace in enumerate(traces):
            if name in parts.contrasts:
                trace.contrasts[name] = found[row, : len(trace)]
    return traces


def _likely(output: Any, given: ResponseBatch) -> Tensor:
    """float32 (B, T): log-probability of the response tokens."""
    found = likelihood(given.predicted(output).flatten(0, 1), given.responses.flatten())
    return found.logprob.view(given.responses.shape)


def _without(model: PreTrainedModel, given: ResponseBatch, tape: Tape, traces: list[Trace]) -> Tensor:
    """The text alone; heads are compared with those of `tape` if that was asked for."""
    inputs = given.text(tape.adapter)
    if not tape.parts.divergence:
        with without(model, {"logits"}):
            return _likely(cast(Any, model)(**inputs), given)
    watched = Parts(layers=tape.parts.layers, divergence=True)
    with recording(model, watched, given.responses.shape[1]) as (text, _):
        found = _likely(cast(Any, model)(**inputs), given)
    longest = found.shape[1]
    distances = []
    for layer in sorted(tape.parts.layers):
        seen, unseen = (torch.cat(side.layers[layer].outputs, 1)[:, :longest].float() for side in (tape, text))
        distances.append(torch.linalg.vector_norm(seen - unseen, dim=-1).transpose(1, 2))
    for row, trace in enumerate(traces):
        trace.divergence = torch.stack([part[row, :, : len(trace)] for part in distances])
    return found


def _rest(places: Places, traces: list[Trace]) -> Tensor:
    """bool (B, fed positions): the visual tokens that are left without those that matter.

    These are what the attached pruner kept, or the most attended ones of a sample of which it dropped nothing.
    """
    width = places.index.shape[1]
    core = torch.zeros_like(places.kept)
    for row, (trace, count) in enumerate(zip(traces, places.counts, strict=True)):
        if trace.kept.numel() and not trace.layers:
            raise ValueError("the contrast 'dropped' goes by attention where nothing was pruned: record some layers")
        most = trace.gaze.sum(0).topk(max(1, int(CORE * count))).indices
        core[row, width - count + most] = True
    pruned = (~places.kept).any(1, keepdim=True)
    matters = torch.where(pruned, places.kept, core)
    stay = torch.zeros_like(places.layout.visual)
    return stay.scatter(1, places.index, ~matters) & places.layout.visual


def _looked_at(places: Places, traces: list[Trace], most: bool) -> Tensor:
    """bool (B, fed positions): of the visual tokens that are left, those that the response attends to most, or others.

    One of them stays on either side, if there are two.
    """
    width = places.index.shape[1]
    stay = torch.zeros_like(places.kept)
    for row, (trace, count) in enumerate(zip(traces, places.counts, strict=True)):
        if trace.kept.numel() and not trace.layers:
            raise ValueError("what is attended to goes by attention: record some layers")
        # Dropped ones come last, whatever early layers saw of them.
        order = trace.gaze.sum(0).masked_fill(~trace.kept, -1.0).argsort(descending=True, stable=True)
        left = trace.kept.sum()
        rank = torch.arange(count, device=order.device)
        split = (left * ATTENDED).round().clamp(min=1).minimum((left - 1).clamp(min=1))
        chosen = rank < split if most else (rank >= split) & (rank < left)
        stay[row, width - count + order] = chosen
    found = torch.zeros_like(places.layout.visual)
    return found.scatter(1, places.index, stay) & places.layout.visual
