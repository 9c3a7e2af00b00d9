"""What OPERA's loop computes of one step: what new tokens look at, penalties, and the beams that go on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from vtokens.core.facts import Facts
from vtokens.kernels import attention_rows
from vtokens.strategies.base import Strategy
from vtokens.strategies.needs import Needs
from vtokens.strategies.views.heads import Heads

TINY = 1e-7
"""The factor on products, of the release."""
MOST = 65504.0
"""No penalty is larger; that of the release, in half precision, is infinite there."""
Finished = tuple[tuple[float, Tensor], ...]
"""Answers that ended: their scores, and their ids with the prompt's."""


@dataclass(frozen=True)
class Dwelling(Strategy):
    """Notes what the last position of each pass looks at in one layer, and changes nothing."""

    name: ClassVar[str] = "opera.look"
    layer: int
    seen: list[Tensor] = field(default_factory=list, compare=False)
    pictures: list[Tensor] = field(default_factory=list, compare=False)

    def needs(self, facts: Facts) -> Needs:
        return Needs(attend=(self.layer,), watches=True)

    def at_attend(self, heads: Heads) -> None:
        rows = attention_rows(
            heads.query[:, :, -1:], heads.key, heads.scaling, None, heads.valid, softcap=heads.softcap
        )[:, :, 0]  # fmt: skip
        most = rows.amax(1)
        if heads.is_image_prefill:
            self.pictures[:] = [heads.visual[:1]]
        self.seen[:] = [most / most.sum(-1, keepdim=True)]

    def last(self, count: int) -> tuple[Tensor, Tensor]:
        """float64 (rows, count) on the host, what the last position gives to the last `count`; (rows,), to pictures.

        Raises:
            ValueError: keys of the prompt were dropped since it was read.
        """
        if not self.pictures:
            raise ValueError("OPERA weighs how much an answer looks at pictures, and the prompt has none")
        [row], [visual] = self.seen, self.pictures
        if row.shape[1] != visual.shape[1] + count:
            raise ValueError(
                "OPERA reads attention over all keys of the prompt, and a strategy that is attached drops cached ones: "
                "prune before the decoder or in it, or search without OPERA"
            )
        return row[:, -count:].double().cpu(), (row[:, :-count] * visual).sum(-1)


@dataclass(frozen=True)
class State:
    """The beams before a step.

    Attributes:
        sequences: int64 (beams, N), their ids with the prompt's.
        scores: float32 (beams,), sums of logarithms.
        logits: float32 (beams, V), of the next token.
        dwelt: float64 (beams, t), for each token said the logarithm of the product of what it and all later ones gave
            to it, each times the scale.
        finished: answers that ended before.
        origin: which beam of the step before each goes on from.
    """

    sequences: Tensor
    scores: Tensor
    logits: Tensor
    dwelt: Tensor
    finished: Finished = ()
    origin: tuple[int, ...] = ()


def followed(dwelt: Tensor, row: Tensor, scale: float) -> Tensor:
    """float64 (..., t + 1): `State.dwelt` (..., t) after another token that looks at row (..., t + 1)."""
    return torch.nn.functional.pad(dwelt, (0, 1)) + (scale * row).log()


def overtrust(dwelt: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """Penalties of candidates (beams, C), and for each beam the token that most of them dwell on, from 0.

    Args:
        dwelt: float64 (beams, C, t), as in `State`.
    """
    best, column = dwelt.max(-1)
    penalty = (TINY * best.exp()).clamp(max=MOST)
    return penalty.float(), tuple(mode(one) for one in column.tolist())


def penalised(logits: Tensor, tokens: Tensor, penalty: Tensor) -> Tensor:
    """Logits (beams, V) of candidates (beams, C) less their penalties; of all other tokens -999, as in the release."""
    kept = logits.gather(1, tokens) - penalty.to(logits)
    return torch.full_like(logits, -999.0).scatter(1, tokens, kept)


def chosen(
    scores: Tensor, state: State, ends: Collection[int], start: int, config: Any
) -> tuple[list[int], list[int], Tensor, Finished]:
    """The beams that go on: which each goes on from, its token, its score (beams,); and the answers that ended by now.

    Args:
        scores: float32 (beams, V), with those of the beams.
        state: the beams before.
        ends: ids that end an answer.
        start: ids of the prompt.
        config: of the call, for its length penalty.
    """
    beams, size = scores.shape
    # As many as leave every beam a token to go on with where all ends stand before it.
    best, place = scores.flatten().topk(min(scores.numel(), max(2, 1 + len(ends)) * beams))
    finished, took, power = list(state.finished), list[tuple[int, int, float]](), config.length_penalty or 0
    for rank, (score, at) in enumerate(zip(best.tolist(), place.tolist(), strict=True)):
        beam, token = divmod(at, size)
        if token not in ends:
            took.append((beam, token, score))
        elif rank < beams:
            whole = torch.cat([state.sequences[beam], state.sequences.new_tensor([token])])
            finished.append((score / (len(whole) - start) ** power, whole))
    finished = sorted(finished, key=lambda one: -one[0])[:beams]
    origin, tokens, total = zip(*took[:beams], strict=True)
    return [*origin], [*tokens], scores.new_tensor(total), tuple(finished)


def mode(values: Sequence[int]) -> int:
    """The most frequent number, the smallest one of several."""
    counts = Counter(values)
    return min(counts, key=lambda one: (-counts[one], one))
