"""The `logits` stage: after the model's forward pass, strategies change the logits of the answer.

Those that compare with a negative prompt:

pass with pictures   prompt -> states -> output layer -> logits
                     then the negative prompt, by itself -> states -> output layer -> negative logits
any later pass       prompt and negative prompt in one pass -> output layer over both -> both logits
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vtokens.engine.forward import Pass
from vtokens.engine.lanes.joint_decode import Joint
from vtokens.engine.lanes.negative_prefill import Run, prefill
from vtokens.engine.lanes.negative_prompt import Start
from vtokens.engine.plan import Contrast
from vtokens.engine.stages.answers import Answers, answers_in, check_labels
from vtokens.engine.state.cache_layers import memory_of, tracked
from vtokens.engine.state.lane import Lane
from vtokens.engine.state.negative_keys import Divergence, divergence_of
from vtokens.engine.state.request import Request
from vtokens.strategies.base import Strategy
from vtokens.strategies.views.heads import VISUAL, Memory
from vtokens.strategies.views.logits import Logits, Prompt


def check(request: Request, lane: Lane, contrast: Contrast) -> None:
    """Raise `ValueError` if a pass cannot be contrasted.

    Args:
        request: the call.
        lane: of its prompt.
        contrast: what contrasts it.
    """
    divergence, first = divergence_of(lane.cache), tracked(lane.cache, 0)
    if divergence is not None or request.runs:
        check_labels(request)
    if first is not None and first.negative is not None and divergence is not None:
        since, own = lane.past - divergence.fed, first.negative.layer.get_seq_length() - divergence.length
        if since != own:
            raise ValueError(
                f"this cache went on for {since} positions without its negative prompt, which got {own} of them: keep "
                "the strategy attached, or start with an empty cache"
            )
    # What stands in the cache is fed to nobody again, so a negative prompt cannot make up for pictures it never saw.
    holds = first is not None and (first.keymap.dropped or VISUAL in first.keymap.memory.keys)
    if lane.past and divergence is None and holds:
        raise ValueError(
            "this cache holds pictures that no negative prompt went along with: start with an empty cache, or keep "
            "the strategy attached from the first turn on"
        )
    if not lane.shows or not isinstance(contrast.negative, Prompt):
        return
    if request.negative_prompt is None:
        raise ValueError(
            "this strategy holds the answer against that to another prompt, and none was given: "
            "with vtokens.attachment(model).negative_prompt(**processor(...)): model.generate(...)"
        )
    if lane.past:
        raise ValueError(
            "a negative prompt begins with an empty cache: give the whole conversation again, without the cache"
        )


class Awaited:
    """The logits of a joint pass, on their way through the output layer.

    The model calls that layer once in this pass, and that call gets the states of both prompts. Further calls are the
    user's own, and are left alone.

    Attributes:
        joint: the pass's lanes.
        kept: int64 (R,), the positions that the caller wants logits of.
        negative: (B, R, V), the logits of the negative prompt, once the output layer has made them; else nothing.
    """

    def __init__(self, joint: Joint, kept: Tensor) -> None:
        self.joint, self.kept = joint, kept
        self.negative: list[Tensor] = []
        self._inside = self._done = False

    def before_head(self, hidden: Tensor) -> Tensor | None:
        """States (B, R, D) on their way to logits, and those of the negative prompt behind them; None the next time."""
        self._inside = not self._done
        self._done = True
        if not self._inside:
            return None
        return torch.cat([hidden, self.joint.negative.hidden[:, self.kept].to(hidden.device)])

    def after_head(self, logits: Tensor) -> Tensor | None:
        """The prompt's logits (B, R, V) alone; those of the negative prompt are kept."""
        if not self._inside:
            return None
        self._inside = False
        real, negative = logits.chunk(2)
        self.negative.append(negative)
        return real


@dataclass(frozen=True)
class Ended:
    """A pass that has ended and whose logits are to be changed: the phase between decoder and logits.

    Attributes:
        request: its call.
        lane: of the prompt.
        contrast: what contrasts it; None if nothing does.
        following: the pass is a joint one, or else a negative prompt starts from it; None if there is none.
        answers: what strategies without a negative prompt change; None if there is nothing.
    """

    request: Request
    lane: Lane
    contrast: Contrast | None
    following: Awaited | Start | None
    answers: Answers | None

    @staticmethod
    def of(passed: Pass) -> Ended | None:
        """The phase behind a pass; None if its logits stay as they are."""
        request, lane = passed.request, passed.main
        if request is None or request.outer is None:
            return None
        awaited = None if passed.joint is None else Awaited(passed.joint, kept(request, lane.length))
        following = passed.start if awaited is None else awaited
        answers = answers_in(lane)
        if following is None and answers is None:
            return None
        return Ended(request, lane, None if following is None else passed.plan.contrast, following, answers)


def changed(ended: Ended, head: Any, output: Any, run: Run) -> Any:
    """The model's output with the logits that strategies make of its own; arguments as in `_contrasted`."""
    logits = output[0] if isinstance(output, tuple) else output.logits
    if ended.contrast is not None:
        logits = _contrasted(ended, ended.contrast, head, logits, run)
    if ended.answers is not None:
        logits = _processed(ended, ended.answers, logits)
    if isinstance(output, tuple):
        return (logits, *output[1:])
    output.logits = logits
    return output


def _processed(ended: Ended, answers: Answers, logits: Tensor) -> Tensor:
    """(B, R, V): what strategies without a negative prompt make of logits."""
    lane, at = ended.lane, kept(ended.request, ended.lane.length).to(answers.positions.device)
    step = None if answers.step is None else answers.step[:, at].to(logits.device)

    def memory(layer: int) -> Memory:
        return memory_of(lane.cache, layer)

    for acting in lane.plan.at_logits:
        made = _said(ended, acting.strategy, Logits(logits.float(), None, step, memory)).to(logits.dtype)
        own = _own(lane, acting.rows, answers.positions)
        logits = torch.where(own[:, at].to(logits.device)[..., None], made, logits)
    return logits


def _own(lane: Lane, rows: Sequence[int] | None, answers: Tensor | None) -> Any:
    """bool (B, N): answers of the rows that run a program; None if all are."""
    share = lane.share(rows)
    if share is None:
        return answers
    device = lane.hidden.device if answers is None else answers.device
    own = torch.zeros(len(lane.hidden), lane.length, dtype=torch.bool, device=device)
    own[share] = True
    return own if answers is None else answers & own


def _contrasted(ended: Ended, contrast: Contrast, head: Any, logits: Tensor, run: Run) -> Tensor:
    """(B, R, V): contrasted logits.

    Args:
        ended: the pass.
        contrast: what contrasts it.
        head: the output layer.
        logits: (B, R, V), those of the model.
        run: calls the language model.
    """
    lane, following, step = ended.lane, ended.following, None
    at = kept(ended.request, lane.length)
    if following is None:
        return logits
    if isinstance(following, Awaited):
        [negative] = following.negative
        answers, step = _follow(lane)
    else:
        found = prefill(following, contrast, run)
        negative, answers, step = head(found.at(at)), found.answers, found.step
    step = None if step is None else step[:, at.to(step.device)].to(logits.device)
    view = Logits(logits.float(), negative.to(logits.device).float(), step)
    made, answers = _said(ended, contrast.strategy, view).to(logits.dtype), _own(lane, contrast.rows, answers)
    if answers is not None:
        made = torch.where(answers[:, at.to(answers.device)].to(logits.device)[..., None], made, logits)
    return made


def kept(request: Request, length: int) -> Tensor:
    """int64 (R,): the positions, of `length` fed ones, that the caller wants logits of."""
    keep = request.logits_to_keep
    return torch.arange(length)[keep.cpu() if isinstance(keep, Tensor) else slice(-keep or None, None)]


def _said(ended: Ended, strategy: Strategy, view: Logits) -> Tensor:
    """float32 (B, R, V): what a strategy makes of logits; figures that it tells go into the record."""
    made = strategy.at_logits(view)
    ended.lane.log(strategy, view.metrics)
    return made


def _follow(lane: Lane) -> tuple[Tensor | None, Tensor]:
    """What a joint pass contrasts, bool (B, N), None for all; int64 (1, N), which token of the answer each predicts."""
    divergence = _answering(lane)
    step = (torch.arange(lane.length) + lane.past - divergence.answer).clamp(min=0)[None] + 1
    return None if divergence.seen is None else divergence.seen[:, None].expand(-1, lane.length), step


def _answering(lane: Lane) -> Divergence:
    """The divergence of a lane's cache; a new prompt, with an answer of its own, is noted in it."""
    first = lane.cache.layers[0]
    if lane.length > lane.asked:
        answer = lane.past + lane.length - lane.asked
        first.negative = replace(first.negative, divergence=replace(first.negative.divergence, answer=answer))
    found: Divergence = first.negative.divergence
    return found
