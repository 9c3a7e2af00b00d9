"""The small bases: a pruner is a score, a merger says what goes into what, a steerer adds to states, an evictor
scores cached keys, a contraster names another prompt."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from vtokens.core.budget import Keep
from vtokens.core.errors import unknown
from vtokens.core.facts import Facts
from vtokens.kernels import first_equal
from vtokens.strategies.base import Strategy
from vtokens.strategies.checks import check_layer, check_layers
from vtokens.strategies.needs import Needs
from vtokens.strategies.selection import Selection
from vtokens.strategies.views.keys import Keys
from vtokens.strategies.views.logits import Logits
from vtokens.strategies.views.states import Place, States
from vtokens.strategies.views.visuals import Visuals

_STAGES = ("prompt", "layer")
_PLACES = ("layer", "mlp")


def check_written(strategy: Strategy, base: type[Strategy], *methods: str) -> None:
    """Raise `TypeError` if a strategy has none of the methods that its base leaves to it."""
    if all(getattr(type(strategy), method) is getattr(base, method) for method in methods):
        words = " or ".join(f"{method}()" for method in methods)
        raise TypeError(f"{type(strategy).__name__} is a {base.__name__} without {words}: it has to be written")


def _layers_of(strategy: Strategy, facts: Facts, every: Sequence[int]) -> tuple[int, ...]:
    """The decoder layers that a field `layers` names, each once; all of `every` if there is none, or it is None."""
    named = getattr(strategy, "layers", None)
    return check_layers("layers", every if named is None else named, facts.depth, first=-facts.depth)


@dataclass(frozen=True)
class ScorePruner(Strategy):
    """A pruner that is a score: of each group the tokens with the highest scores stay, as many as `keep` allows.

    Subclasses write `score`. It runs before the decoder, or, with `stage = "layer"` in the class, before the decoder
    layer that a field `layer` names (1 to depth - 1). What it reads beside hidden states, `needs` asks for.

    Attributes:
        stage: "prompt" or "layer", said by the class.
        keep: share or count per picture.
        positions: "original" leaves kept tokens and later text the numbers that they have in the full sequence;
            "compact" numbers them one after the other, as releases do that hand on a shorter sequence, and servers.
        budget: "per_image" gives each picture its own budget, "per_frame" each frame of a video and each view of an
            image its part of that, "global" ranks all tokens of a prompt together.
        of: a share is one of the tokens "left" by strategies before, or of those of the "original" picture.
    """

    stage: ClassVar[Literal["prompt", "layer"]] = "prompt"
    keep: Keep = 0.25
    positions: Literal["original", "compact"] = field(default="original", kw_only=True)
    budget: Literal["per_image", "per_frame", "global"] = field(default="per_image", kw_only=True)
    of: Literal["left", "original"] = field(default="left", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.budget == "per_frame":
            object.__setattr__(self, "grouping", "frame")

    def score(self, visuals: Visuals) -> Tensor:
        """Floating (G, M): how much each token is worth; read as `Visuals.top` reads it."""
        raise NotImplementedError

    @classmethod
    def stages(cls) -> tuple[str, ...]:
        return (cls.stage,)

    def _completed(self, needs: Needs, facts: Facts) -> Needs:
        check_written(self, ScorePruner, "score")
        if self.stage not in _STAGES:
            raise unknown("stage", self.stage, _STAGES)
        late = self.stage == "layer"
        where: tuple[int, ...] = (
            (check_layer("layer", getattr(self, "layer", None), facts.depth, first=1),) if late else ()
        )
        if needs.layer not in ((), where):
            raise ValueError(
                f"{self.name!r} needs layer={needs.layer!r}, but a ScorePruner acts once, here before "
                f"{f'layer {where[0]}' if late else 'the decoder'}: say where by `stage` and a field `layer` alone"
            )
        needs = dataclasses.replace(needs, compact=self.positions == "compact")
        return dataclasses.replace(needs, layer=where) if late else needs

    def at_prompt(self, visuals: Visuals) -> Selection:
        return visuals.top(self.score(visuals), self.keep, self.of, self.budget)

    def at_layer(self, visuals: Visuals, index: int) -> Selection:
        return visuals.top(self.score(visuals), self.keep, self.of, self.budget)


@dataclass(frozen=True)
class Merger(Strategy):
    """A merger: one token of each cluster goes through the decoder for all of them.

    Subclasses write `members`, or `at_encode` where tokens are merged in the vision tower already, or `at_pixels` where
    it is shown fewer of them; or several of these. Attention of the decoder sees the token that stays at the positions
    of all that it stands for (virtual unmerging).
    """

    @property
    def unmerged(self) -> bool:
        """Whether attention does so; if not, what was merged into another token is gone before the decoder."""
        return True

    def members(self, visuals: Visuals) -> Tensor | None:
        """int64 (G, M): the place in its group of the token that each goes into, 0 to M - 1; None if nothing is merged.

        A token that any names stays, and stands for itself. Who names padding stays too. By default, the first of those
        that the tower merged.
        """
        copies = visuals.copies()
        return None if copies is None else first_equal(copies.masked_fill(~visuals.valid, -1))

    def at_prompt(self, visuals: Visuals) -> Selection | None:
        members = self.members(visuals)
        if members is None:
            return None
        if members.dtype != torch.long:
            raise TypeError(f"members are {members.dtype}: places in the group are allowed, torch.int64")
        if members.shape != visuals.valid.shape:
            raise ValueError(
                f"members have the shape {tuple(members.shape)}: one for each token is needed, "
                f"{tuple(visuals.valid.shape)}"
            )
        members = members.to(visuals.valid.device)
        own = torch.arange(members.shape[1], device=members.device).expand_as(members)
        members = torch.where(visuals.valid, members, own)
        keep = torch.zeros_like(visuals.valid).scatter(1, members, True) & visuals.valid
        keep = keep | (visuals.valid & ~keep.gather(1, members))
        return Selection(keep, member=torch.where(keep, own, members) if self.unmerged else None)

    def _completed(self, needs: Needs, facts: Facts) -> Needs:
        check_written(self, Merger, "members", "at_encode", "at_pixels", "at_prompt")
        return dataclasses.replace(needs, once=True, unmerges=self.unmerged)


@dataclass(frozen=True)
class Steerer(Strategy):
    """A steerer: in every pass something is added to the states of decoder layers.

    Subclasses write `steer`. It is asked behind every layer, or behind those that a field `layers` names (negative ones
    from the end); with `place = "mlp"` in the class, on what their MLPs are about to add to the states.

    Attributes:
        place: "layer" or "mlp", said by the class.
    """

    place: ClassVar[Place] = "layer"

    def steer(self, states: States) -> Tensor | None:
        """What to add to `states.hidden` (B, W, D), or what spreads to it, as (D,); None if nothing."""
        raise NotImplementedError

    def at_states(self, states: States) -> Tensor | None:
        return self.steer(states)

    def _completed(self, needs: Needs, facts: Facts) -> Needs:
        check_written(self, Steerer, "steer", "at_states")
        if self.place not in _PLACES:
            raise unknown("place", self.place, _PLACES)
        if needs.states or needs.mlp:
            return needs
        where = _layers_of(self, facts, range(facts.depth))
        return (
            dataclasses.replace(needs, mlp=where) if self.place == "mlp" else dataclasses.replace(needs, states=where)
        )


@dataclass(frozen=True)
class Evictor(Strategy):
    """An evictor: once the prompt is read, cached keys of visual tokens are dropped; what it says itself stays exact.

    Subclasses write `score`. It is asked in every layer that has keys, or in those that a field `layers` names
    (negative ones from the end). Keys of text always stay.

    Attributes:
        keep: share or count per picture, of its keys in each layer.
    """

    keep: Keep = 0.25

    def score(self, keys: Keys) -> Tensor:
        """Floating (B, S): how much each key is worth, or (B, H_kv, S) to each key and value head."""
        raise NotImplementedError

    def at_cache(self, keys: Keys) -> Selection | None:
        return keys.top(self.score(keys), self.keep) if keys.is_image_prefill else None

    def _completed(self, needs: Needs, facts: Facts) -> Needs:
        check_written(self, Evictor, "score", "at_cache")
        return needs if needs.cache else dataclasses.replace(needs, cache=_layers_of(self, facts, facts.attending))


@dataclass(frozen=True)
class Contraster(Strategy):
    """A contraster: each token of the answer is weighed against what the model says to another prompt.

    Subclasses write `negative`, which says what that prompt holds (`vtokens.strategies.views.logits`), and `contrast`.
    """

    def contrast(self, logits: Logits) -> Tensor:
        """float32 (B, R, V): what takes the place of `logits.positive`."""
        raise NotImplementedError

    def at_logits(self, logits: Logits) -> Tensor:
        return self.contrast(logits)

    def _completed(self, needs: Needs, facts: Facts) -> Needs:
        check_written(self, Contraster, "negative")
        check_written(self, Contraster, "contrast", "at_logits")
        return dataclasses.replace(needs, once=True)
