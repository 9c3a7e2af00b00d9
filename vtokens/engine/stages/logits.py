"""The `logits` stage: after the model's forward pass, strategies change the logits of the answer.

Those that compare with a negative prompt:

pass with pictures   prompt -> states -> output layer -> logits
                     then the negative prompt, by itself -> states -> output layer -> negative logits
any later pass       prompt and negative prompt in one pass -> output layer over both -> both logits
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vtokens.adapters.output import finished
from vtokens.engine.forward import Pass
from vtokens.engine.lanes.fed import Start
from vtokens.engine.lanes.joint_decode import Joint
from vtokens.engine.lanes.negative_prefill import Run, prefill
from vtokens.engine.plan import Contrast
from vtokens.engine.program import Acting
from vtokens.engine.stages.answers import Answers
from vtokens.engine.stages.early import grounding, kept, logits_of, logits_of_sent
from vtokens.engine.state.cache_layers import first_keys, memory_of, tracked
from vtokens.engine.state.lane import Lane
from vtokens.engine.state.negative_keys import divergence_of
from vtokens.engine.state.request import Request
from vtokens.strategies.views.heads import VISUAL
from vtokens.strategies.views.logits import Logits, Prompt

_BELOW = 256.0
"""How far below all others the logits lie that strategies rule out: a softmax in single precision gives them 0, at a
temperature of 2 too, and half precision still tells them apart."""


def check(request: Request, lane: Lane, contrast: Contrast) -> None:
    """Raise `ValueError` if a pass cannot be contrasted.

    Args:
        contrast: what contrasts it.
    """
    divergence, first = divergence_of(lane.cache), tracked(lane.cache, first_keys(lane.cache))
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
        answers: which logits are changed.
        following: the pass is a joint one, or else a negative prompt starts from it; None if there is none.
    """

    request: Request
    lane: Lane
    answers: Answers
    following: Awaited | Start | None

    @staticmethod
    def of(passed: Pass) -> Ended | None:
        """The phase behind a pass; None if its logits stay as they are."""
        request, lane = passed.request, passed.main
        if request is None or passed.answers is None:
            return None
        following = passed.start if passed.joint is None else Awaited(passed.joint, kept(request, lane.length))
        return Ended(request, lane, passed.answers, following)


def changed(ended: Ended, head: Any, output: Any, run: Run) -> Any:
    """The model's output with the logits that strategies make of its own.

    Args:
        ended: the pass.
        head: the output layer.
        run: calls the language model.
    """
    logits = output[0] if isinstance(output, tuple) else output.logits
    lane, contrast, following, own = ended.lane, ended.lane.plan.contrast, ended.following, logits
    if contrast is not None and following is not None:
        positions = ended.answers.positions
        if isinstance(following, Awaited):
            [negative] = following.negative
        else:
            found = prefill(following, contrast, run)
            negative, positions = head(found.at(kept(ended.request, lane.length))), found.both(positions)
        negative = finished(lane.adapter, negative)
        logits = _changed(ended, head, contrast, logits, negative, positions)
    for acting in lane.plan.at_logits:
        logits = _changed(ended, head, acting, logits, None, ended.answers.positions)
    if logits is own:
        return output
    logits = _last(logits, own)
    if isinstance(output, tuple):
        return (logits, *output[1:])
    output.logits = logits
    return output


def _last(made: Tensor, own: Tensor) -> Tensor:
    """`made` (B, R, V) with the tokens that strategies ruled out behind all others, in the model's `own` order.

    Were they at -inf, `generate` would have nothing to choose from once its own settings (min_new_tokens,
    suppress_tokens, a grammar) forbid all that is left: it would write token 0.
    """
    out = made.isneginf() & ~own.isneginf()
    least = made.masked_fill(made.isneginf(), torch.inf).amin(-1, keepdim=True)
    least = least.masked_fill(least.isposinf(), 0)  # where nothing is left, the model's own order decides
    return torch.where(out, least - _BELOW + (own - own.amax(-1, keepdim=True)), made)


def _changed(
    ended: Ended,
    head: Any,
    acting: Contrast | Acting,
    logits: Tensor,
    negative: Tensor | None,
    positions: Tensor,
) -> Tensor:
    """(B, R, V): what a strategy makes of logits, at some positions, bool (B, N), of the rows that run it."""
    lane, at = ended.lane, kept(ended.request, ended.lane.length).to(positions.device)
    step, own_rows = ended.answers.step, lane.batch_rows(acting.rows)
    # Whether the decoder made a cache by itself is known at its end alone.
    view = Logits(
        logits.float(),
        None if negative is None else negative.to(logits.device).float(),
        None if lane.cache is None else step[:, at.to(step.device)].to(logits.device),
        partial(memory_of, lane.cache),
        partial(logits_of, lane.adapter, lane, head),
        acting.prepared,
        grounding(lane, head) if isinstance(acting, Acting) and acting.needs.grounds else None,
        partial(logits_of_sent, lane.adapter, lane, head),
    )
    made = acting.strategy.at_logits(view).to(logits.dtype)
    lane.log(acting.strategy, view.metrics)
    if own_rows is not None:
        own = torch.zeros_like(positions)
        own[own_rows] = True
        positions = positions & own
    return torch.where(positions[:, at].to(logits.device)[..., None], made, logits)
