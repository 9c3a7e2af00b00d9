"""Traces: the numbers of one forward pass over a prompt and its response, from which all signals are computed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vtokens.core.errors import unknown
from vtokens.core.picture import Picture
from vtokens.strategies.checks import check_layer

CONTRASTS = ("no_image", "dropped", "blank", "attended", "unattended")
"""Other views of the same prompt: its text alone, its picture without the tokens that matter, a picture of nothing, and
the picture's tokens that the response attends to most, or the others."""


@dataclass(frozen=True)
class Parts:
    """What a trace is to hold; signals say what they need of it, and `|` joins them.

    Layers are numbered from 0. States are numbered as transformers' `hidden_states`: 0 enters the first layer, i leaves
    layer i - 1, and the last, number `depth`, went through the final norm.

    Attributes:
        layers: decoder layers whose attention is recorded; each has to have some.
        states: states of the rows that predict the response.
        image_states: states of the visual tokens.
        lens: states of the visual tokens that are read through the model's output layer.
        contrasts: other views (`CONTRASTS`) in which the response is scored again, a pass each.
        divergence: whether head outputs are compared with the view "no_image".
        stretches: stretches of decoder layers, of which those that have attention are recorded (`attending`).
    """

    layers: frozenset[int] = frozenset()
    states: frozenset[int] = frozenset()
    image_states: frozenset[int] = frozenset()
    lens: frozenset[int] = frozenset()
    contrasts: frozenset[str] = frozenset()
    divergence: bool = False
    stretches: frozenset[range] = frozenset()

    def __or__(self, other: Parts) -> Parts:
        joined = {f.name: getattr(self, f.name) | getattr(other, f.name) for f in dataclasses.fields(self)}
        return Parts(**joined)

    def check(self, depth: int) -> None:
        """Raise `ValueError` unless a model with `depth` decoder layers has all of it."""
        for name in sorted(self.contrasts - set(CONTRASTS)):
            raise unknown("contrast", name, CONTRASTS)
        for layer in sorted(self.layers):
            check_layer("layers", layer, depth)
        for stretch in self.stretches:
            if not stretch:
                raise ValueError(f"stretches={stretch!r} is not allowed: a stretch has at least one decoder layer")
            for layer in (min(stretch), max(stretch)):
                check_layer("stretches", layer, depth)
        for what in ("states", "image_states", "lens"):
            for state in sorted(getattr(self, what)):
                if not 0 <= state <= depth:
                    raise ValueError(
                        f"{what}={state!r} is out of range: a model with {depth} layers has states 0 to {depth}"
                    )

    def on(self, among: Sequence[int]) -> Parts:
        """The same of one model: with the layers `among`, those that have attention, in place of its stretches."""
        found = {layer for stretch in self.stretches for layer in attending(stretch, among)}
        return dataclasses.replace(self, layers=self.layers | found, stretches=frozenset())

    @property
    def passes(self) -> int:
        """Forward passes beside the one that reads or writes the response."""
        return len(self.contrasts | ({"no_image"} if self.divergence else set()))

    @staticmethod
    def union(parts: Iterable[Parts]) -> Parts:
        """All of them joined."""
        joined = Parts()
        for part in parts:
            joined |= part
        return joined


def attending(stretch: range, among: Sequence[int]) -> tuple[int, ...]:
    """The layers of a stretch that have attention, those of `among`; if none, the one nearest to its middle."""
    found = tuple(layer for layer in among if layer in stretch)
    return found or (min(among, key=lambda layer: abs(2 * layer - stretch[0] - stretch[-1])),)


@dataclass
class Trace:
    """One response of T tokens, about N visual tokens in the prompt, from a model of `depth` layers, H heads, width D.

    Row k is the position that predicts token k: the last prompt position for k = 0, token k - 1 for the others. The
    last token is never fed, so its own state is not known. L, S, I and J are what was asked for in `Parts`. Tensors are
    float32 unless said otherwise, and stay on the model's device.

    Attributes:
        ids: int64 (T,), the response, without an end token behind it.
        logprob: (T,), natural logarithm of the probability that the model gave each token. This, `entropy` and `margin`
            are of the raw logits, before temperature or any other change that `generate` makes.
        entropy: (T,), nats, of the distribution that predicted each token.
        margin: (T,), by how much its most likely token is more probable than the second, in [0, 1].
        depth: decoder layers of the model.
        linear: those of them that have no attention, but keep a state of fixed size in place of keys.
        layers: the L recorded ones.
        visual: (L, H, T), share of row k's attention on visual tokens.
        spread: (L, H, T), entropy in nats of row k's attention within the visual tokens; 0 where there are none.
        generated: (L, H, T), share of row k's attention on response tokens before k.
        gaze: (T, N), attention of row k to each visual token, averaged over heads and recorded layers; a token dropped
            by a pruner counts as 0 in the layers that never saw it.
        kept: bool (N,), which visual tokens the last decoder layer sees.
        picture, cell: int64 (N,), which of `pictures` each visual token belongs to, and its index there.
        pictures: the sample's pictures, with their grids.
        states: the S states in `hidden`.
        hidden: (S, T, D), states of row k.
        image_states: the I states in `image_hidden`.
        image_hidden: (I, N, D), states of the visual tokens; zero for a token dropped before that state.
        lens_states: the J states in `lens`.
        lens: (J, T, N), log-probability of token k in the softmax over W_U h_j(v), the output layer applied to the
            state of each visual token; -inf for a token dropped before that state.
        contrasts: name -> (T,), `logprob` of the same tokens in another view.
        divergence: (L, H, T), distance between head outputs of row k, before the output projection, with the pictures
            and without; None unless asked for.
        left_out: names of attached strategies that act elsewhere than on logits, and could not act in this pass.
    """

    ids: Tensor
    logprob: Tensor
    entropy: Tensor
    margin: Tensor
    depth: int
    layers: tuple[int, ...]
    visual: Tensor
    spread: Tensor
    generated: Tensor
    gaze: Tensor
    kept: Tensor
    picture: Tensor
    cell: Tensor
    pictures: tuple[Picture, ...]
    states: tuple[int, ...]
    hidden: Tensor
    image_states: tuple[int, ...]
    image_hidden: Tensor
    lens_states: tuple[int, ...]
    lens: Tensor
    contrasts: dict[str, Tensor] = field(default_factory=dict)
    divergence: Tensor | None = None
    linear: tuple[int, ...] = ()
    left_out: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def where(self, part: str, wanted: Sequence[int]) -> list[int]:
        """Where states or layers stand in a part: indices into "layers", "states", "image_states" or "lens_states".

        Raises:
            ValueError: one was not recorded.
        """
        there: tuple[int, ...] = getattr(self, part)
        missing = [number for number in wanted if number not in there]
        if missing:
            what = part.replace("_", " ")
            raise ValueError(
                f"this trace holds {what} {list(there)}, not {missing}: record it for the signals that read it"
            )
        return [there.index(number) for number in wanted]

    def attending(self, stretch: range) -> tuple[int, ...]:
        """The decoder layers of a stretch that have attention; if none has, the one nearest to its middle."""
        return attending(stretch, [layer for layer in range(self.depth) if layer not in self.linear])

    def contrast(self, name: str) -> Tensor:
        """(T,): by how much the response is more likely than in another view, log p - log p'.

        Raises:
            ValueError: that view was not scored.
        """
        if name not in self.contrasts:
            held = ", ".join(sorted(self.contrasts)) or "none"
            raise ValueError(f"this trace was not contrasted with {name!r} (with {held}): score it for that signal")
        return self.logprob - self.contrasts[name]

    def own(self, state: int) -> Tensor:
        """(T, D): states at the response tokens themselves; the last one, never fed, has that of the row before it."""
        [index] = self.where("states", [state])
        hidden = self.hidden[index]
        return torch.cat([hidden[1:], hidden[-1:]])

    def at_prompt(self, state: int) -> Tensor:
        """(D,): the state of the last prompt position."""
        [index] = self.where("states", [state])
        return self.hidden[index, 0]

    def to(self, device: torch.device | str) -> Trace:
        """The trace on another device."""

        def move(value: Any) -> Any:
            if isinstance(value, dict):
                return {name: part.to(device) for name, part in value.items()}
            return value.to(device) if isinstance(value, Tensor) else value

        return Trace(**{f.name: move(getattr(self, f.name)) for f in dataclasses.fields(self)})


def beside(traces: Sequence[Trace]) -> Trace:
    """The rows of several answers, one behind the other, for what reads a token's likelihoods and attention alone.

    What is of the picture, and the states, are those of the first answer.
    """
    parts: dict[str, Any] = {
        name: torch.cat([getattr(trace, name) for trace in traces], -1)
        for name in ("ids", "logprob", "entropy", "margin", "visual", "spread", "generated")
    }
    return dataclasses.replace(traces[0], **parts)
