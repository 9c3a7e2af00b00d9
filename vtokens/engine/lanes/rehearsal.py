"""A rehearsal: the prompt runs through the decoder once before, and what is noted of it is found in the pass."""

from __future__ import annotations

from vtokens.engine.lanes.fed import Start
from vtokens.engine.lanes.negative_prefill import Run, inputs_of, pictures_of
from vtokens.engine.lanes.negative_prompt import unchanged
from vtokens.engine.plan import Plan
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
    pictures = pictures_of(start, fed, start.pictures.ends)
    sequence = NegativePrefill(plan, pictures, lane.asked, fed.both_ways)
    run(sequence, inputs_of(start, fed, None, fed.valid))
    for index, noted in sequence.notes.items():
        lane.notes.setdefault(index, Memory()).samples.update(noted.samples)
