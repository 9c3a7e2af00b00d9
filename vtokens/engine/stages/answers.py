"""Which logits of a pass are an answer's, and which of its tokens each predicts: what `logits` strategies change.

Example: a pass feeds the prompt, the next ones a token each. The cache layer notes 3, where the answer begins.

    fed position     0   1   2   3 | 4   5
    fed              t0  v0  v1  t1| a0  a1
    predicts token               1 | 2   3      Answers.step
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vtokens.engine.state.cache_layers import memory_of
from vtokens.engine.state.lane import Lane
from vtokens.engine.state.prompt_end import answered_positions, steps
from vtokens.engine.state.request import Request
from vtokens.strategies.views.memory import Memory

_BEGINS = "answer begins"
"""What the first cache layer notes of each sample: int64 (B,), the fed position whose logits say the first token of the
answer, below 0 for samples without pictures."""


def check_labels(request: Request) -> None:
    """Raise `ValueError` if a call whose logits are changed has labels."""
    if request.labels is not None:
        raise ValueError(
            "labels under a contrastive strategy, or another that changes logits: the model would compute its loss "
            "from logits as they were, and changed ones may be minus infinity for what was ruled out. Leave labels out "
            "and score the logits, or detach() the strategy for training"
        )


@dataclass(frozen=True)
class Answers:
    """Which logits of a pass are an answer's.

    Attributes:
        positions: bool (B, N), positions whose logits are changed.
        step: int64 (B, N), which token of the answer each position predicts, if this is not a pass without a cache.
    """

    positions: Tensor
    step: Tensor


def answers_in(request: Request, lane: Lane) -> Answers | None:
    """Which logits of a pass are an answer's; None if none are. Where the answer begins is noted in the cache.

    Raises:
        ValueError: the call has labels.
    """
    noted = memory_of(lane.cache, 0).samples.get(_BEGINS)
    if lane.pictures is not None:
        layout = lane.pictures.layout
        ends = lane.pictures.ends.to(layout.valid.device)
        before = None if noted is None else noted.to(ends.device) >= 0
        positions = answered_positions(layout, ends, before)
        shown = layout.visual.any(1)
        begins = torch.where(shown if before is None else shown | before, ends[:, 0] + lane.past, -1)
        step = steps(ends, lane.length)
    elif noted is None:
        return None
    else:
        begins = noted
        if lane.length > lane.asked:  # another prompt, about pictures that were shown before
            begins = torch.where(begins < 0, -1, lane.past + lane.length - lane.asked)
        positions = (begins >= 0)[:, None].expand(-1, lane.length)
        step = steps(begins[:, None] - lane.past, lane.length)
    check_labels(request)
    if begins is not noted:
        lane.notes[0] = Memory(samples={_BEGINS: begins})
    return Answers(positions, step)
