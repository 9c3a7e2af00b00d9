"""What a signal is: one number, or a few by name, for each mention of a response; high speaks for a hallucination."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from vtokens.core.errors import unknown
from vtokens.filter.trace.trace import Parts, Trace

Over = Literal["first", "last", "mean", "max", "sum"]
"""How the tokens of a mention become one number."""


class Spanned(Protocol):
    """What a signal reads of a mention: its response tokens, and whether it was named before."""

    @property
    def text(self) -> str: ...

    @property
    def tokens(self) -> tuple[int, ...]: ...

    @property
    def repeat(self) -> bool: ...


class Spans:
    """The tokens of n mentions, side by side.

    Attributes:
        mentions: the mentions.
        index: int64 (n, M), token indices; 0 behind the last token of a shorter mention.
        real: bool (n, M), False there.

    Raises:
        ValueError: a mention without tokens, or with some that the trace does not hold.
    """

    def __init__(self, mentions: Sequence[Spanned], trace: Trace) -> None:
        self._length = length = len(trace)
        for mention in mentions:
            if not mention.tokens:
                raise ValueError(
                    f"mention {mention.text!r} has no tokens: give it some with mention.with_tokens(spans), or drop it"
                )
            if not 0 <= min(mention.tokens) <= max(mention.tokens) < length:
                raise ValueError(f"mention {mention.text!r} has tokens {mention.tokens} of a response of {length}")
        self.mentions, device = mentions, trace.ids.device
        most = max((len(mention.tokens) for mention in mentions), default=1)
        rows = [[*mention.tokens, *[-1] * (most - len(mention.tokens))] for mention in mentions]
        index = torch.tensor(rows, dtype=torch.long, device=device).view(len(mentions), most)
        self.index, self.real = index.clamp(min=0), index >= 0

    @classmethod
    def joined(cls, parts: Sequence[Spans]) -> Spans:
        """The mentions of several answers that stand one behind the other."""
        found, most, before = cls.__new__(cls), max(part.index.shape[1] for part in parts), 0
        index, real = [], []
        for part in parts:
            behind = (0, most - part.index.shape[1])
            index.append(torch.nn.functional.pad(part.index + before, behind))
            real.append(torch.nn.functional.pad(part.real, behind))
            before += part._length
        found.mentions = [mention for part in parts for mention in part.mentions]
        found.index, found.real, found._length = torch.cat(index), torch.cat(real), before
        return found

    @cached_property
    def _sizes(self) -> Tensor:
        """int64 (n,): the tokens of each mention."""
        return self.real.sum(1)

    @cached_property
    def _weights(self) -> Tensor:
        """float32 (T, n): 1 over the tokens of each mention, 0 elsewhere; one product puts many rows together."""
        weights = torch.zeros(len(self.mentions), self._length, device=self.index.device)
        return weights.scatter_add_(1, self.index, self.real.float()).T

    def over(self, values: Tensor, how: Over) -> Tensor:
        """(..., T) -> (..., n): the tokens of each mention put together."""
        if how in ("mean", "sum"):
            total = values @ self._weights.to(values.dtype)
            return total if how == "sum" else total / self._sizes
        found = values[..., self.index]
        if how == "first":
            return found[..., 0]
        if how == "last":
            return found.gather(-1, (self._sizes[:, None] - 1).expand(*found.shape[:-1], 1))[..., 0]
        return found.masked_fill(~self.real, -torch.inf).amax(-1)


@dataclass(frozen=True)
class Signal:
    """Base of all signals: a frozen dataclass whose fields are its settings.

    Attributes:
        name: what it is called; several numbers are called name.something.
        paper: where it comes from.
        says: in words, what it says of a mention when it speaks for a hallucination, and when against; may be empty.
        heavy: costs much without costing a pass.
        apart: is computed where it is named alone, and in none of the sets.
        by_token: reads `logprob`, `entropy`, `margin` and attention of the mention's own tokens alone, through
            `Spans.over`, or the mention: several answers may stand one behind the other. Holds for
            the class alone that says it, as one made of it may read something else.
    """

    name: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    says: ClassVar[tuple[str, str] | tuple[()]] = ()
    heavy: ClassVar[bool] = False
    apart: ClassVar[bool] = False
    by_token: ClassVar[bool] = False

    def parts(self, depth: int) -> Parts:
        """What it needs of a trace of a model with `depth` decoder layers."""
        return Parts()

    @property
    def passes(self) -> int:
        """Forward passes it costs beside the one that reads or writes the response."""
        return self.parts(32).passes

    def values(self, trace: Trace, spans: Spans) -> Mapping[str, Tensor]:
        """(n,) by name: the numbers of each mention."""
        raise NotImplementedError

    def score(self, trace: Trace, mention: Spanned) -> float:
        """The number of one mention.

        Raises:
            ValueError: the signal gives several; use `features`.
        """
        found = self.values(trace, Spans([mention], trace))
        if set(found) != {self.name}:
            raise ValueError(f"{self.name!r} gives several numbers, {', '.join(found)}: ask features() for them")
        return float(found[self.name])


def check_over(value: str, allowed: Sequence[str] = ("first", "last", "mean", "max", "sum")) -> None:
    """Raise `ValueError` unless `value` is one of `Over`."""
    if value not in allowed:
        raise unknown("way to put tokens together", value, allowed)


@dataclass(frozen=True)
class Pooled(Signal):
    """Base of the signals that put one number a token together.

    Attributes:
        over: how the tokens of a mention are put together.

    Raises:
        ValueError: `over` is no such way.
    """

    over: Over = "mean"

    def __post_init__(self) -> None:
        check_over(self.over)


@dataclass(frozen=True)
class OfMiddle(Pooled):
    """Base of the signals that read what attention in the `middle` layers did with a token."""

    def parts(self, depth: int) -> Parts:
        return Parts(stretches=frozenset({middle(depth)}))

    @staticmethod
    def rows(trace: Trace, values: Tensor) -> Tensor:
        """Of what a trace has of each of its layers, (L, ...), that of the middle ones."""
        found = trace.where("layers", trace.attending(middle(trace.depth)))
        # Most often no others were recorded.
        return values.contiguous() if len(found) == len(values) else values[found]


def middle(depth: int) -> range:
    """The layers in which SVAR's authors watch a model of 32, 5 to 18, scaled to `depth`.

    Those of them that have attention are watched (`Trace.attending`): sums and means are over these alone.
    """
    return scaled(5, 18, depth)


def scaled(first: int, last: int, depth: int, of: int = 32) -> range:
    """Layers `first` to `last`, inclusive, of a model with `of` layers, in one of `depth`: those at the same height.

    The middle of layer l lies at (l + 1/2) / of; the layers whose middles fall between the two belong.
    """
    low, high = ((layer + 0.5) / of * depth - 0.5 for layer in (first, last))
    return range(max(0, round(low)), min(depth - 1, round(high)) + 1)
