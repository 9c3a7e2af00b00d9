"""Compositions: strategies that are used together so often that they have a name."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

from vtokens.core.facts import Facts
from vtokens.strategies.base import Strategy


@dataclass(frozen=True)
class Composition(Strategy):
    """A name for several strategies: where a spec is read, they take its place.

    Subclasses say which, and where these act. Their fields fill the spec: with `composes = "cls(keep={keep})+vtw"` and
    a field `keep`, the spec "mine(keep=0.5)" is read as "cls(keep=0.5)+vtw", which is what reports name.

    Attributes:
        composes: the spec, with names of fields in braces; said by the class.
        acts: the stages of its strategies; said by the class.
    """

    composes: ClassVar[str] = ""
    acts: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def stages(cls) -> tuple[str, ...]:
        return cls.acts

    def spec(self) -> str:
        """The spec of the strategies that this one stands for."""
        return self.composes.format(**{field.name: getattr(self, field.name) for field in fields(self)})


@dataclass(frozen=True)
class Choice(Composition):
    """A name for strategies that are chosen for a model: where it is attached, they take its place.

    Subclasses write `chosen`. A field `keep` goes to the strategy that is chosen.
    """

    def chosen(self, facts: Facts) -> tuple[str, str]:
        """The spec that takes its place on the model described by `facts`, and why; ValueError if none does."""
        raise NotImplementedError
