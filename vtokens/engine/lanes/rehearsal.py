"""A rehearsal: the prompt runs through the decoder once before, and what is noted of it is found in the pass."""

from __future__ import annotations

import torch

from vtokens.core.compat import as_cache
from vtokens.engine.lanes.fed import Start
from vtokens.engine.lanes.negative_prefill import Run
from vtokens.engine.lanes.negative_prompt import unchanged
from vtokens.engine.plan import Plan
from vtokens.engine.record import Record
from vtokens.engine.state.per_layer import as_argument
from vtokens.engine.state.pictures import Pictures
from vtokens.engine.state.positions import rotary_positions
from vtokens.engine.state.request import NegativePrefill
from vtokens.strategies.views.memory import Memory


def rehearse(start: Start, plan: Plan, run: Run) -> None:
    """Run a prompt under another plan; what is noted of its samples stands in the notes of the pass that follows.

    Args:
        start: the pass, before its first layer.
        plan: which strategy acts where in the rehearsal.
        run: calls the language model.

    Raises:
        ValueError: the prompt goes on behind what is cached.
    """
    lane, fed = start.lane, unchanged(start)
    if lane.past:
        names = sorted({one.name for one in lane.plan.strategies if one.rehearsal(lane.adapter.facts) is not None})
        raise ValueError(
            f"{' and '.join(map(repr, names))} reads a prompt with pictures twice, and this one goes on behind "
            f"{lane.past} positions: give the whole conversation again, with an empty cache and in one piece"
        )
    record, embeds = start.pictures.record, fed.embeds
    pictures = Pictures(
        start.pictures.layout, fed.runs, rotary_positions(fed.positions), start.pictures.ends, start.pictures.answered,
        Record(start.pictures.layout, embeds.shape[1], record.depth, record.itemsize), fed.injection,
    )  # fmt: skip
    # Where nothing is padded, pass an explicit all-ones mask: position gaps would be read as packing.
    whole = torch.ones(embeds.shape[:2], dtype=torch.bool, device=embeds.device)
    sequence = NegativePrefill(plan, pictures, lane.asked, fed.both_ways)
    run(
        sequence,
        {
            "inputs_embeds": embeds,
            "position_ids": fed.positions,
            **as_cache(lane.adapter.language_model, None),
            **start.side,
            **as_argument(lane.adapter, fed.per_layer),
            "attention_mask": whole if fed.valid is None else fed.valid,
            "use_cache": False,
        },
    )
    for index, noted in sequence.notes.items():
        lane.notes.setdefault(index, Memory()).samples.update(noted.samples)
