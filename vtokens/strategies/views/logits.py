"""What a `logits` strategy declares and sees: the negative prompt, and the logits of both prompts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vtokens.strategies.selection import Selection
from vtokens.strategies.views.memory import Logging, Memory
from vtokens.strategies.views.visuals import Visuals


@dataclass(frozen=True)
class NoPicture:
    """The prompt's text alone, numbered anew."""


@dataclass(frozen=True)
class Pixels:
    """The prompt with other pixels, for which the tower runs again.

    Attributes:
        change: from pixels as the processor made them, (..., C, H, W) or (patches, values) of one picture, to those of
            the negative prompt. It must do to a picture what it would do to that picture alone.
        under: strategies that the negative prompt runs under, in place of the others of the spec; None: the same ones.
    """

    change: Callable[[Tensor], Tensor]
    under: str | None = None


@dataclass(frozen=True)
class Tokens:
    """The prompt with some of the visual tokens that the real pass kept to its end, or until an exit took them all.

    Attributes:
        select: chooses them; sees the signals that the strategy asked for, as observed in the real pass.
        blank: the others stay as zeros; else they are dropped, and the negative prompt is as short as what is left.
        newlines: positions of a picture that hold none of its features stay; not looked at if the others do.
        arrange: what is left is numbered anew, the tokens of each picture by these scores, highest first: float (B, W)
            of what the callable sees, 0 or above. None leaves order and positions as they are.
    """

    select: Callable[[Visuals], Selection]
    blank: bool = False
    newlines: bool = True
    arrange: Callable[[Visuals], Tensor] | None = None


@dataclass(frozen=True)
class Same:
    """The prompt itself, under other strategies."""

    under: str


@dataclass(frozen=True)
class Prompt:
    """Another prompt, given for each call (`Handle.negative_prompt`), about the same pictures."""

    under: str | None = None


Negative = NoPicture | Pixels | Tokens | Same | Prompt
"""What a negative prompt holds."""


class Logits(Logging):
    """The logits of some rows, and those of the negative prompt if there is one.

    Attributes:
        positive: float32 (B, R, V), of the prompt as it was given.
        step: int64 (1 or B, R), which token of the answer each row predicts, the first is 1; None in a pass without a
            cache, which cannot know.
        prepared: what the strategy's `prepare` made.
        grounding: float32 (B, V), the most that the last state of any visual token which is left predicts of each
            word; None unless the strategy asked for it (`Needs(grounds=True)`) and the pass brings pictures.
        metrics: the figures that were logged for the report.
    """

    def __init__(
        self,
        positive: Tensor,
        negative: Tensor | None = None,
        step: Tensor | None = None,
        memory: Callable[[int], Memory] = lambda layer: Memory(),
        early: Callable[[int, bool], Tensor] | None = None,
        prepared: Any = None,
        grounding: Tensor | None = None,
        sent: Callable[[int, float], Tensor | None] = lambda layer, entering: None,
    ) -> None:
        self.positive, self.step, self._negative, self._memory = positive, step, negative, memory
        self._early, self.prepared, self.grounding, self._sent = early, prepared, grounding, sent
        self.metrics: dict[str, Tensor] = {}

    @property
    def negative(self) -> Tensor:
        """float32 (B, R, V), of the negative prompt.

        Raises:
            ValueError: there is none.
        """
        if self._negative is None:
            raise ValueError(
                "there are no negative logits, since this strategy declared no other prompt: let its negative(facts) "
                "return one, such as NoPicture()"
            )
        return self._negative

    def early(self, layer: int, normed: bool = True) -> Tensor:
        """float32 (B, R, V): what the output layer makes of the states that enter a decoder layer, in this pass.

        Args:
            layer: one of those that `Needs(early=...)` named; 0 is entered by embeddings.
            normed: the states go through the norm behind the last layer first; `Needs(norm=True)` says so.

        Raises:
            ValueError: it was not named.
        """
        if self._early is None:
            raise ValueError("there are no early logits here: name the layers by Needs(early=...)")
        return self._early(layer, normed)

    def shortcut(self, layer: int, entering: float = 0.0) -> Tensor | None:
        """float32 (B, R, V): logits of what `Heads.shortcut` sent from the attention of a layer to the last one.

        The last layer's own attention is left out. Its MLP sees what was sent, projected as in its layer and normed as
        before the last one's attention, and `entering` times the states that entered the last one. None if nothing was.
        """
        return self._sent(layer, entering)

    def recall(self, name: str, layer: int) -> Tensor | None:
        """What `at_attend` or `at_states` noted about each sample in a decoder layer, in this pass or before, (B, ...);
        None if nothing was, or nothing is cached."""
        return self._memory(layer).samples.get(name)

    def remember(self, name: str, layer: int, values: Tensor) -> None:
        """Note `values` (B, ...) about each sample in a decoder layer, for the next pass.

        Nothing is noted where `at_attend` or `at_states` noted nothing by this name, or where nothing is cached.
        """
        noted = self._memory(layer).samples
        if name in noted:
            noted[name] = values

    def plausible(self, beta: float) -> Tensor:
        """bool (B, R, V): tokens that the real prompt finds at least `beta` times as probable as its favourite."""
        best = self.positive.amax(-1, keepdim=True)
        return self.positive >= best + (math.log(beta) if beta > 0 else -math.inf)

    def cut(self, values: Tensor, beta: float) -> Tensor:
        """`values` (B, R, V) without the tokens that are not plausible."""
        plausible = self.plausible(beta)
        self.log("plausible_tokens", plausible.sum(-1).float().mean(1))
        cut = values.masked_fill(~plausible, -math.inf)
        self.log("changed_answers", (cut.argmax(-1) != self.positive.argmax(-1)).float().mean(1))
        return cut

    def contrast(self, alpha: float, beta: float) -> Tensor:
        """(1 + alpha) positive - alpha negative, float32 (B, R, V), where plausible; -inf elsewhere."""
        return self.cut((1 + alpha) * self.positive - alpha * self.negative, beta)
