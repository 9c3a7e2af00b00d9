"""What a strategy is: a frozen dataclass whose fields are its hyperparameters and whose methods are its stages."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, ClassVar, cast

from torch import Tensor

from vtokens.core.budget import Keep
from vtokens.core.facts import Facts
from vtokens.core.layout import Grouping
from vtokens.kernels import Merged
from vtokens.strategies.fields import checked
from vtokens.strategies.needs import Needs
from vtokens.strategies.older import Older, overridden
from vtokens.strategies.selection import Selection
from vtokens.strategies.stages import STAGES
from vtokens.strategies.views.heads import Heads
from vtokens.strategies.views.keys import Keys
from vtokens.strategies.views.logits import Logits, Negative
from vtokens.strategies.views.patches import Patches
from vtokens.strategies.views.pixel_grid import Fewer, PixelGrid
from vtokens.strategies.views.states import States
from vtokens.strategies.views.visuals import Visuals


@dataclass(frozen=True)
class Strategy(Older):
    """Base of all strategies: a frozen dataclass whose fields are its settings, and a method for each stage it acts at.

    Most strategies are smaller as a `ScorePruner`, `Merger`, `Steerer`, `Evictor` or `Contraster`
    (`vtokens.strategies.bases`), or as a `VideoPruner`.

    `at_pixels` shows the vision tower less of a picture, `at_encode` merges tokens in it, `at_prompt` selects before
    decoder layer 0, `at_layer` before later ones, and `at_rows` says which visual tokens a layer computes; these run
    when pictures come in. `at_attend` changes head outputs inside the attention of decoder layers, in every pass that
    can see pictures; `at_states` adds to what leaves the layers, and `at_cache` says which of their keys stay, in every
    pass. `at_logits` compares the logits of text behind pictures with those of a second prompt, which `negative`
    declares and which gets the same tokens. `needs` says in which layers, and what they read.

    Attributes:
        name, paper, aliases, venue, evidence, shown, given: what `register` was given.
        grouping: what `Visuals` makes one group of: a picture ("image"), or all pictures of a prompt ("sample").
        alone: of a strategy that `modifies` others, the `keep` with which it acts by itself where none is written
            before it; None if it cannot.
    """

    name: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    aliases: ClassVar[tuple[str, ...]] = ()
    venue: ClassVar[str] = ""
    evidence: ClassVar[str] = ""
    shown: ClassVar[str] = ""
    given: ClassVar[tuple[str, ...]] = ()
    grouping: ClassVar[Grouping] = "image"
    alone: ClassVar[Keep | None] = None

    @classmethod
    def stages(cls) -> tuple[str, ...]:
        """The stages this strategy takes part in."""
        return tuple(stage for stage in STAGES if getattr(cls, f"at_{stage}") is not getattr(Strategy, f"at_{stage}"))

    def __post_init__(self) -> None:
        given = {f.name: getattr(self, f.name) for f in fields(self) if f.init}
        for name, value in checked(type(self), given).items():
            object.__setattr__(self, name, value)

    @property
    def _keeps_all(self) -> bool:
        """True if the settings ask for nothing to be dropped: `keep=1.0`."""
        keep = getattr(self, "keep", None)
        return isinstance(keep, float) and keep == 1.0

    @property
    def modifies(self) -> bool:
        """Whether it acts on what the pruner written right before it selects (`at_selection`): it has an
        `at_selection`, and was given no `keep`."""
        own = type(self).at_selection is not Strategy.at_selection
        return own and getattr(self, "keep", None) is None

    def check(self, facts: Facts) -> None:
        """Raise `ValueError` if this strategy cannot run on the model described by `facts`."""

    def needs(self, facts: Facts) -> Needs:
        """What this strategy needs on the model described by `facts`; asked once, at attach time, after `check`."""
        return Needs(**overridden(self, facts, Strategy))

    def _completed(self, needs: Needs, facts: Facts) -> Needs:
        """`needs`, with what a base knows of all strategies built on it."""
        return needs

    def prepare(self, facts: Facts) -> Any:
        """What the stages need that depends on the model, such as a table read from a file; made once, at attach time.

        They find it as `Heads.prepared`.
        """
        return None

    def at_pixels(self, pixels: PixelGrid) -> Fewer | None:
        """What the vision tower sees of one picture: it `Resized`, or without its `Repeats`; None if all of it.

        Which of the two it may be, `Needs(pixels=...)` says beforehand.
        """
        raise NotImplementedError

    def at_encode(self, patches: Patches) -> Merged | None:
        """Merge tokens of the vision tower."""
        raise NotImplementedError

    def at_prompt(self, visuals: Visuals) -> Selection | None:
        """Select before the decoder; `visuals.hidden` holds the projected features."""
        raise NotImplementedError

    def at_layer(self, visuals: Visuals, index: int) -> Selection | None:
        """Select before decoder layer `index`; `visuals.hidden` holds the states entering it."""
        raise NotImplementedError

    def at_selection(self, visuals: Visuals, selection: Selection) -> Selection:
        """What is selected in place of `selection`, which the strategy written before this one made of `visuals`.

        Called wherever that strategy selects, before the decoder or a layer, if this one `modifies`. Groups are
        pictures, unless the selection has weights.
        """
        raise NotImplementedError

    def at_rows(self, visuals: Visuals, index: int) -> Selection | None:
        """Which visual tokens decoder layer `index` computes; the others pass through it as they are.

        Their keys and values are made all the same, so that later positions attend to them. `visuals.hidden` holds the
        states entering it. None if it computes all.
        """
        raise NotImplementedError

    def at_attend(self, heads: Heads) -> None:
        """Change the head outputs of one attention call."""
        raise NotImplementedError

    def at_states(self, states: States) -> Tensor | None:
        """What to add to `states.hidden`: (B, W, D), or what spreads to it; None if nothing."""
        raise NotImplementedError

    def at_cache(self, keys: Keys) -> Selection | None:
        """Which cached keys of a layer stay, `keep` bool (B, S) or (B, H_kv, S); None if all do.

        `counts` of the selection are how many keys of each sample stay, padding left out, in every head; None if only
        the device knows. Called in every pass.
        """
        raise NotImplementedError

    def rehearsal(self, facts: Facts) -> Strategy | None:
        """A strategy that runs in this one's place in a pass over the same prompt before it; None if there is none.

        What it notes about samples in a decoder layer (`States.remember`, `Heads.remember`), this one finds there by
        `recall`. It costs a prefill; the other strategies that run on the sample take part in it.
        """
        return None

    def negative(self, facts: Facts) -> Negative | None:
        """What the negative prompt holds, for `at_logits`; None if it compares with no other prompt."""
        return None

    def at_logits(self, logits: Logits) -> Tensor:
        """float32 (B, R, V): what takes the place of `logits.positive`."""
        raise NotImplementedError

    def silent(self) -> Strategy | None:
        """What of this strategy runs where logits are to be the model's own, as when an answer is read that is there.

        The same settings at every stage but `logits`; None if it acts nowhere else, or, where a class says so, if what
        it does elsewhere follows from the logits of the step before.
        """
        if "logits" not in self.stages():
            return self
        if self.stages() == ("logits",):
            return None
        cls: Any = type(self)
        found: Any = object.__new__(_silent(cls))
        for name, value in vars(self).items():
            object.__setattr__(found, name, value)
        return cast(Strategy, found)


@cache
def _silent(cls: type[Strategy]) -> type[Strategy]:
    """A class of strategies without its `logits` stage."""
    stages = tuple(stage for stage in cls.stages() if stage != "logits")
    inside = {"stages": classmethod(lambda _: stages), "__module__": cls.__module__, "__doc__": cls.__doc__}
    return cast("type[Strategy]", type(cls.__name__, (cls,), inside))


def needs_of(strategy: Strategy, facts: Facts) -> Needs:
    """What a strategy needs on a model: its own answer, what its base adds, and what it says by names of before."""
    parent = next(cls for cls in type(strategy).__mro__ if "needs" in vars(cls))
    needs, older = strategy.needs(facts), overridden(strategy, facts, parent)
    return strategy._completed(dataclasses.replace(needs, **older) if older else needs, facts)
