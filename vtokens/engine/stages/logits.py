"""The `logits` stage: after the model's forward pass, logits of the answer are replaced by contrasted ones.

pass with pictures   prompt -> states -> output layer -> logits
                     then the negative prompt, by itself -> states -> output layer -> negative logits
any later pass       prompt and negative prompt in one pass -> output layer over both -> both logits
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vtokens.engine.forward import Pass
from vtokens.engine.lanes.joint_decode import Joint
from vtokens.engine.lanes.negative_prefill import Run, prefill
from vtokens.engine.lanes.negative_prompt import Start
from vtokens.engine.plan import Contrast
from vtokens.engine.state.lane import Lane
from vtokens.engine.state.negative_keys import Divergence, divergence_of
from vtokens.engine.state.request import Request
from vtokens.engine.state.tracked_layer import tracked
from vtokens.strategies.views.heads import VISUAL
from vtokens.strategies.views.logits import Logits, Prompt


def check(request: Request, lane: Lane, contrast: Contrast) -> None:
    """Raise `ValueError` if a pass cannot be contrasted.

    Args:
        request: the call.
        lane: of its prompt.
        contrast: what contrasts it.
    """
    divergence, first = divergence_of(lane.cache), tracked(lane.cache, 0)
    if request.labels is not None and (divergence is not None or request.runs):
        raise ValueError(
            "labels under a contrastive strategy: the model would compute its loss from logits that are not "
            "contrasted, and contrasted ones are minus infinity for what was ruled out. Leave labels out and score "
            "the logits, or detach() the strategy for training"
        )
    if first is not None and first.negative is not None and divergence is not None:
        since, own = lane.past - divergence.fed, first.negative.layer.get_seq_length() - divergence.length
        if since != own:
            raise ValueError(
                f"this cache went on for {since} positions without its negative branch, which got {own} of them: keep "
                "the strategy attached, or start with an empty cache"
            )
    # What stands in the cache is fed to nobody again, so a branch cannot make up for pictures it never saw.
    holds = first is not None and (first.keymap.dropped or VISUAL in first.keymap.memory.keys)
    if lane.past and divergence is None and holds:
        raise ValueError(
            "this cache holds pictures that no negative branch went along with: start with an empty cache, or keep "
            "the strategy attached from the first turn on"
        )
    if not lane.shows or not isinstance(contrast.kind, Prompt):
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
        self._inside = not self._done  # whoever calls the layer after an interruption gets what it says
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
    """A pass that has ended and whose logits are to be contrasted: the phase between decoder and logits.

    Attributes:
        request: its call.
        contrast: what contrasts it.
        lane: of the prompt.
        following: the pass is a joint one, or else a negative prompt starts from it.
    """

    request: Request
    contrast: Contrast
    lane: Lane
    following: Awaited | Start

    @staticmethod
    def of(passed: Pass) -> Ended | None:
        """The phase behind a pass; None if its logits stay as they are."""
        request, contrast, lane = passed.request, passed.plan.contrast, passed.main
        if request is None or request.outer is None or contrast is None:
            return None
        if passed.joint is not None:
            return Ended(request, contrast, lane, Awaited(passed.joint, kept(request, lane.length)))
        return None if passed.start is None else Ended(request, contrast, lane, passed.start)


def contrasted(ended: Ended, head: Any, output: Any, run: Run) -> Any:
    """The model's output with contrasted logits.

    Args:
        ended: the pass.
        head: the output layer.
        output: of the model with logits.
        run: calls the language model.
    """
    logits = output[0] if isinstance(output, tuple) else output.logits
    lane, following, step = ended.lane, ended.following, None
    at = kept(ended.request, lane.length)
    if isinstance(following, Awaited):
        [negative] = following.negative
        answers, step = _follow(lane)
    else:
        found = prefill(following, ended.contrast, run)
        negative, answers, step = head(found.at(at)), found.answers, found.step
    changed = _contrast(ended, logits, negative, None if step is None else step[:, at.to(step.device)])
    rows = lane.share(ended.contrast.rows)
    if rows is not None:
        own = torch.zeros(len(logits), lane.length, dtype=torch.bool, device=logits.device)
        own[rows] = True
        answers = own if answers is None else answers.to(own.device) & own
    if answers is not None:
        changed = torch.where(answers[:, at.to(answers.device)].to(logits.device)[..., None], changed, logits)
    if isinstance(output, tuple):
        return (changed, *output[1:])
    output.logits = changed
    return output


def kept(request: Request, length: int) -> Tensor:
    """int64 (R,): the positions, of `length` fed ones, that the caller wants logits of."""
    keep = request.logits_to_keep
    return torch.arange(length)[keep.cpu() if isinstance(keep, Tensor) else slice(-keep or None, None)]


def _contrast(ended: Ended, logits: Tensor, negative: Tensor, step: Tensor | None) -> Tensor:
    """(B, R, V): what the strategy makes of both."""
    strategy, pictures = ended.contrast.strategy, ended.lane.pictures
    step = None if step is None else step.to(logits.device)
    view = Logits(logits.float(), negative.to(logits.device).float(), step)
    changed = strategy.at_logits(view).to(logits.dtype)
    if pictures is not None and view.told:
        pictures.record.told.append((strategy, view.told))
    return changed


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
