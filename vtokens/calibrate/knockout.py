"""Attention knock-out: rows of a prompt do not see some of its keys, in some decoder layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vtokens.core.facts import Facts
from vtokens.strategies.base import Strategy
from vtokens.strategies.needs import Needs
from vtokens.strategies.views.heads import Heads

CLOSED, OPEN = range(2)


@dataclass(frozen=True)
class Knockout(Strategy):
    """Closes the keys of `source` to the rows of `target`, which share their attention out over the others.

    A prompt is a picture, the question behind it, and its last position, whose logits say what the answer begins with:

        keys      system  picture  question  last
        question     x      (x)       x               picture to question
        last         x      (x)       x       x       picture to last
        last         x       x       (x)      x       question to last

    Attributes:
        source, target: which keys are closed to which rows. The question is the text behind the first visual token,
            the last position left out.
        layers: decoder layers in which they are closed; () closes nothing.
    """

    name = "knockout"
    source: Literal["picture", "question"] = "picture"
    target: Literal["question", "last"] = "last"
    layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.source == self.target:
            raise ValueError(
                f"source={self.source!r} is the target too: 'picture' to 'question' or 'last' is allowed, and "
                "'question' to 'last'"
            )

    def needs(self, facts: Facts) -> Needs:
        return Needs(attend=self.layers, once=True)

    def at_attend(self, heads: Heads) -> None:
        if not heads.is_image_prefill:
            return
        rows = heads.last if self.target == "last" else heads.answers
        closed = heads.visual if self.source == "picture" else self._question(heads)
        values, shares = heads.reweighed(torch.where(closed, CLOSED, OPEN), 2, rows, _without)
        moves = shares[CLOSED] > 0
        if self.target == "question":
            moves = moves & (rows.index < heads.last.index)[:, None]
        heads.replace(rows, torch.where(moves[..., None], values, heads.at(rows).float()))

    @staticmethod
    def _question(heads: Heads) -> Tensor:
        """bool (B, K): keys of the text between the first visual token and the last position of each prompt."""
        rows = heads.answers
        within = rows.index < heads.last.index
        within = within if rows.real is None else within & rows.real
        keys = torch.zeros(len(heads.key), heads.key.shape[2] + 1, dtype=torch.bool, device=heads.key.device)
        # What is not within goes to a column of its own, which is cut off.
        return keys.scatter(1, torch.where(within, rows.index + heads.past, keys.shape[1] - 1), True)[:, :-1]


def _without(shares: Tensor) -> Tensor:
    """The open keys share all of the attention."""
    return torch.stack([torch.zeros_like(shares[CLOSED]), torch.ones_like(shares[OPEN])])
