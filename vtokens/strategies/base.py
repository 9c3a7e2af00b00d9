"""What a strategy is: a frozen dataclass whose fields are its hyperparameters and whose methods are its stages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from torch import Tensor

from vtokens.core.facts import Facts
from vtokens.core.layout import Grouping
from vtokens.kernels import Merged
from vtokens.strategies.fields import checked
from vtokens.strategies.selection import Selection
from vtokens.strategies.signals import Signal
from vtokens.strategies.views.heads import Heads
from vtokens.strategies.views.logits import Logits, Negative
from vtokens.strategies.views.patches import Patches
from vtokens.strategies.views.visuals import Visuals

STAGES = ("encode", "prompt", "layer", "attend", "logits")
"""Where a strategy can act, in order; a strategy acts at stage `s` by overriding `at_s`."""


@dataclass(frozen=True)
class Strategy:
    """Base of all strategies. Subclasses override the stages they take part in.

    `at_encode` merges tokens in the blocks of the vision tower that `encodes_in` names. `at_prompt` acts before decoder
    layer 0, `at_layer` before each decoder layer that `acts_before` names, both at prefill only; they return the tokens
    that stay, or None to leave everything. `at_attend` acts inside the attention of the layers that `attends_in` names,
    in every pass that can see pictures; it changes head outputs. `at_logits` compares the logits of text behind
    pictures with those of a second prompt, which `negative` declares and which gets the same tokens.

    Attributes:
        once: naming the strategy twice makes no sense.
        watches: it only looks: its `at_attend` changes nothing, and is called in passes without pictures too; in the
            attention over one new token `at_step` may be called in its place, at a fraction of the cost.
        computes: its `at_attend` computes head outputs in place of the attention implementation, so that it comes
            before those that change them, wherever it is written.
    """

    name: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    aliases: ClassVar[tuple[str, ...]] = ()
    grouping: ClassVar[Grouping] = "image"
    once: ClassVar[bool] = False
    watches: ClassVar[bool] = False
    computes: ClassVar[bool] = False

    @classmethod
    def stages(cls) -> tuple[str, ...]:
        """The stages this strategy takes part in."""
        return tuple(stage for stage in STAGES if getattr(cls, f"at_{stage}") is not getattr(Strategy, f"at_{stage}"))

    def __post_init__(self) -> None:
        given = {f.name: getattr(self, f.name) for f in fields(self) if f.init}
        for name, value in checked(type(self), given).items():
            object.__setattr__(self, name, value)

    @property
    def keeps_all(self) -> bool:
        """True if the settings ask for nothing to be dropped: `keep=1.0`."""
        keep = getattr(self, "keep", None)
        return isinstance(keep, float) and keep == 1.0

    def check(self, facts: Facts) -> None:
        """Raise `ValueError` if this strategy cannot run on the model described by `facts`."""

    def signals(self, facts: Facts) -> Sequence[Signal]:
        """What must be observed before the stages run."""
        return ()

    def prepare(self, facts: Facts) -> Any:
        """What the stages need that depends on the model, such as a table read from a file; made once, at attach time.

        They find it as `Heads.prepared`.
        """
        return None

    def acts_before(self, facts: Facts) -> Sequence[int]:
        """The decoder layers before which `at_layer` is called."""
        return ()

    def attends_in(self, facts: Facts) -> Sequence[int]:
        """The decoder layers in whose attention `at_attend` is called."""
        return ()

    def wants_branch(self) -> bool:
        """Whether `Heads.branch` is needed: one more prefill, of the text alone."""
        return False

    def encodes_in(self, facts: Facts) -> Sequence[int]:
        """The tower blocks, or rounds behind a tower that joins patches, in which `at_encode` is called."""
        return ()

    def at_encode(self, patches: Patches) -> Merged | None:
        """Merge tokens of the vision tower."""
        raise NotImplementedError

    def unmerges(self) -> bool:
        """Whether selections name the token that goes on for each of those dropped (`Selection.member`)."""
        return False

    def at_prompt(self, visuals: Visuals) -> Selection | None:
        """Select before the decoder; `visuals.hidden` holds the projected features."""
        raise NotImplementedError

    def at_layer(self, visuals: Visuals, index: int) -> Selection | None:
        """Select before decoder layer `index`; `visuals.hidden` holds the states entering it."""
        raise NotImplementedError

    def at_attend(self, heads: Heads) -> None:
        """Change the head outputs of one attention call."""
        raise NotImplementedError

    def at_step(self, layer: int, query: Tensor, hidden: Tensor, output: Tensor) -> None:
        """See a new token: its query (B, H, 1, D), the state (B, 1, D_model) that entered the layer, head outputs
        (B, 1, H, D)."""
        raise NotImplementedError

    def negative(self, facts: Facts) -> Negative:
        """What the prompt of the negative branch holds, for `at_logits`."""
        raise NotImplementedError

    def at_logits(self, logits: Logits) -> Tensor:
        """float32 (B, R, V): what takes the place of `logits.positive`."""
        raise NotImplementedError


def check_layer(what: str, value: object, depth: int, first: int = 0) -> int:
    """Return `value` as a layer index.

    Raises:
        TypeError: not an int.
        ValueError: outside first..depth-1.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{what}={value!r} is not a layer number: an int from {first} to {depth - 1} is allowed")
    if not first <= value < depth:
        nearest = min(max(value, first), depth - 1)
        raise ValueError(
            f"{what}={value} is out of range for a model with {depth} layers: "
            f"{first} to {depth - 1} is allowed, the nearest is {nearest}"
        )
    return value


def check_share(what: str, value: object) -> None:
    """Raise unless `value` is a number in [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{what}={value!r} is not a number")
    if not 0 <= value <= 1:
        raise ValueError(f"{what}={value!r} is out of range: a share in [0, 1] is allowed")


def check_weight(what: str, value: float, least: float = 0.0) -> None:
    """Raise `ValueError` unless a number is `least` or more, and not inf."""
    if not least <= value < math.inf:
        raise ValueError(f"{what}={value!r} is out of range: a finite number from {least:g} on is allowed")
