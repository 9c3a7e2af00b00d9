"""Attention that is lifted where evidence is, while an answer is written: what ILVAD does behind its draft."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from vtokens.core.facts import Facts
from vtokens.strategies import Strategy
from vtokens.strategies.needs import Needs
from vtokens.strategies.views.heads import Heads, Rows

_LIFT = "ilvad.lift"
TINY = 1e-8
"""What the release adds to sums that it divides by."""


def within(values: Tensor) -> Tensor:
    """Values (N,) brought to their mean - 3 to + 3 standard deviations."""
    if len(values) < 2:
        return values
    mean, far = values.mean(), 3 * values.std()
    return values.clamp(mean - far, mean + far)


@dataclass
class State:
    """What is known of an answer while it is written.

    Attributes:
        lift: float32 (positions,), the logarithm of the lift of each position of the picture.
        grounding: float32 (T,), of the text behind the picture, as far as it is known.
        newest: of the row that predicts the next token, in the layers of this pass so far.
    """

    lift: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    grounding: Tensor | None = None
    newest: Tensor | float = 0.0


@dataclass(frozen=True)
class Evidence(Strategy):
    """Lifts what is evidence, and text that looked at it, in the row that predicts the next token."""

    name: ClassVar[str] = "ilvad.evidence"
    beta: float = 0.3
    layers: tuple[int, ...] = ()
    state: State = field(default_factory=State, compare=False)

    def needs(self, facts: Facts) -> Needs:
        return Needs(attend=facts.attending, weighs=bool(self.layers), once=True)

    def prepare(self, facts: Facts) -> int:
        """The layer that ends a pass."""
        return facts.attending[-1]

    def at_attend(self, heads: Heads) -> None:
        width = heads.query.shape[2]
        if len(heads.query) > 1 or (heads.layout is None and width > 1):
            raise ValueError(
                "the recipe 'ilvad' follows one answer, token by token: leave beams, several sequences and drafts out"
            )
        visuals, visual = heads.visuals, heads.visual[0]
        if visuals is not None:
            heads.mark(_LIFT, visuals.spread(visuals.at_cells([self.state.lift])), fill=0)
        lift, text = heads.marks(_LIFT)[0], behind(visual)
        if heads.is_image_prefill:
            self._read(heads, lift, visual, text)
        last = Rows(torch.full((1, 1), width - 1, device=visual.device))
        change = Change(self, heads.layer, lift, visual, text)
        if heads.layer in self.layers:
            heads.rescale(last, change=change)
        else:
            heads.rescaled(last, change=change)
        if heads.layer == heads.prepared:
            assert self.state.grounding is not None
            self.state.grounding = torch.cat([self.state.grounding, torch.as_tensor(self.state.newest).reshape(1)])
            self.state.newest = 0.0

    def _read(self, heads: Heads, lift: Tensor, visual: Tensor, text: int) -> None:
        """Add what the text of the prompt looks at in a layer; its end says nothing of itself, as in the release."""
        rows = torch.arange(len(visual) - text, len(visual) - 1, device=visual.device)[None]
        found: list[Tensor] = []

        def note(shares: Tensor) -> Tensor:
            looks = shares[0] * visual
            found.append(followed(looks, lift)[0])
            return shares

        if rows.shape[1]:
            heads.rescaled(Rows(rows), change=note)
        new = torch.nn.functional.pad(torch.cat(found) if found else lift[:0], (0, text - rows.shape[1]))
        self.state.grounding = new if self.state.grounding is None else self.state.grounding + new


def behind(visual: Tensor) -> int:
    """Keys behind the last visual one."""
    return int(visual.flip(0).float().argmax()) if bool(visual.any()) else 0


def followed(looks: Tensor, lift: Tensor) -> tuple[Tensor, Tensor]:
    """How far attention to visual tokens, (H, R, K), follows evidence.

    Returns:
        (R,), the sum of `lift` over what the half of the heads looks at that follows it most; int64 (H // 2, R), they.
    """
    paid = (looks * lift).sum(-1)
    share = paid / (looks.sum(-1) + TINY)
    chosen = share.topk(max(1, len(looks) // 2), dim=0).indices
    return paid.gather(0, chosen).mean(0), chosen


@dataclass
class Change:
    """What becomes of attention (1, H, 1, K) of the newest row; counts what it looks at on the way."""

    evidence: Evidence
    layer: int
    lift: Tensor
    visual: Tensor
    text: int

    def __call__(self, shares: Tensor) -> Tensor:
        state, looks = self.evidence.state, shares[0] * self.visual
        grounded, chosen = followed(looks, self.lift)
        state.newest = state.newest + grounded[0]
        if self.layer not in self.evidence.layers or state.grounding is None:
            return shares
        changed, known = shares[0, :, 0].clone(), state.grounding
        changed[chosen[:, 0]] = changed[chosen[:, 0]] * self.lift.exp()
        low, high = known.min(), known.max()
        state.grounding = known = within(known)
        if len(known) > 1:
            place = slice(len(self.visual) - self.text, len(self.visual) - self.text + len(known))
            most = shares[0, :, 0, len(self.visual) - self.text :].sum(1).topk(chosen.shape[0]).indices
            factor = torch.where(high > low, (known - low) / (high - low) + self.evidence.beta, 1.0)
            changed[most, place] = changed[most, place] * factor
        return (changed / (changed.sum(-1, keepdim=True) + TINY))[None, :, None]
