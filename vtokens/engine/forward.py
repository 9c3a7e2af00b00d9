"""One pass through the decoder, with its lanes."""

from __future__ import annotations

from dataclasses import dataclass

from vtokens.engine.lanes.fed import Start
from vtokens.engine.lanes.joint_decode import Joint
from vtokens.engine.lanes.text import TextLane
from vtokens.engine.plan import Plan
from vtokens.engine.stages.answers import Answers
from vtokens.engine.state.lane import Lane
from vtokens.engine.state.request import Request


@dataclass(frozen=True)
class Pass:
    """A call of the decoder.

    Attributes:
        plan: which strategy acts where in it.
        main: the lane of the prompt, or of a negative prompt that is prefilled by itself.
        request: the call of the multimodal module that this pass belongs to; None if the decoder was called by itself,
            or by the engine.
        text: the prompt's text without its pictures; None if no strategy compares with it.
        joint: both lanes, where a negative prompt runs in the same pass; None elsewhere.
        start: what a negative prompt is made from once the pass has ended; None if none is.
        answers: which of its logits strategies change; None if none.
    """

    plan: Plan
    main: Lane
    request: Request | None
    text: TextLane | None = None
    joint: Joint | None = None
    start: Start | None = None
    answers: Answers | None = None
