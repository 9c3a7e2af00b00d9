"""Names that `Needs` replaced: what a subclass says by them counts for one more release, with a warning."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

from vtokens.core.facts import Facts
from vtokens.strategies.needs import Needs
from vtokens.strategies.signals import Signal

REPLACED = {
    "once": "once",
    "watches": "watches",
    "computes": "computes",
    "unmerges": "unmerges",
    "wants_branch": "text_lane",
    "signals": "signals",
    "encodes_in": "encode",
    "acts_before": "layer",
    "attends_in": "attend",
}
"""Member of a strategy -> field of `Needs`."""


class Older:
    """Gives `Strategy` the members of before, for subclasses that override them or ask for what their parent says."""

    _overrides: ClassVar[tuple[str, ...]] = ()  # of each class, in its own body

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._overrides = tuple(name for name in REPLACED if name in vars(cls))
        for name in cls._overrides:
            warnings.warn(
                f"{cls.__module__}.{cls.__qualname__} overrides `{name}`, which goes away in 0.3: let its needs(facts) "
                f"return Needs({REPLACED[name]}=...) instead (docs/migrating.md)",
                DeprecationWarning,
                stacklevel=2,
            )

    def needs(self, facts: Facts) -> Needs:
        raise NotImplementedError

    @property
    def watches(self) -> bool:
        return False

    def unmerges(self) -> bool:
        return False

    def wants_branch(self) -> bool:
        return False

    def signals(self, facts: Facts) -> Sequence[Signal]:
        return self.needs(facts).signals

    def encodes_in(self, facts: Facts) -> Sequence[int]:
        return self.needs(facts).encode

    def acts_before(self, facts: Facts) -> Sequence[int]:
        return self.needs(facts).layer

    def attends_in(self, facts: Facts) -> Sequence[int]:
        return self.needs(facts).attend


def overridden(strategy: Older, facts: Facts, parent: type) -> dict[str, Any]:
    """Fields of `Needs` that a strategy says by names of before, in classes that are nearer to it than `parent`."""
    found: dict[str, Any] = {}
    for cls in type(strategy).__mro__:
        if cls is parent:
            break
        for name in vars(cls).get("_overrides", ()):
            if REPLACED[name] not in found:
                value = getattr(strategy, name)
                takes_facts = name not in ("unmerges", "wants_branch")
                found[REPLACED[name]] = value if not callable(value) else value(facts) if takes_facts else value()
    return found
