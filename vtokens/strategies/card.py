"""The card of a strategy: what it says of itself, told by its class or read from its source."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, get_args

from vtokens.core.source import written
from vtokens.core.written import RegisteredClass, Unread
from vtokens.strategies import needed
from vtokens.strategies.needed import COSTS, WORDS
from vtokens.strategies.stages import STAGES

if TYPE_CHECKING:
    from vtokens.strategies.base import Strategy

Evidence = Literal["", "parity", "text", "stand-in"]
EVIDENCE: dict[str, str] = {
    "": "",
    "parity": "parity with the released code",
    "text": "from the paper's text",
    "stand-in": "stand-in: not the method itself, which needs what is not there",
}
"""What says that a strategy is the method whose name it has, and how that is told."""


@dataclasses.dataclass(frozen=True)
class Description:
    """What `describe` returns; printing it gives a readable card.

    Attributes:
        name, aliases: in specs.
        summary: the first line of its docstring.
        stages: where it acts.
        paper, venue: where it comes from.
        fields: its settings, (annotation, default) each.
        evidence, shown: a key of `EVIDENCE`, and the test that shows it.
        given: where a setting makes it another kind of evidence: the setting, the kind, and the test that shows that.
        needs: what it reads beside the tokens themselves, with some of its settings (`vtokens.strategies.needed`).
        kind: "prune", "merge", "attend" or "contrast", where it stands in the package; "" for a plugin's.
        composes: the spec that a composition stands for, with names of its fields in braces; "" for any other.
    """

    name: str
    summary: str
    stages: tuple[str, ...]
    paper: str
    fields: dict[str, tuple[str, Any]]
    aliases: tuple[str, ...] = ()
    venue: str = ""
    evidence: str = ""
    shown: str = ""
    needs: tuple[str, ...] = ()
    kind: str = ""
    composes: str = ""
    given: tuple[str, ...] = ()

    def told(self, with_: str = "`", show: Callable[[str], str] = lambda test: f" ({test})") -> str:
        """The evidence in words, with what a setting makes of it; "" if there is none.

        Args:
            with_: what stands around the name of a setting.
            show: how a test is named.
        """
        if not self.evidence:
            return ""
        text = EVIDENCE[self.evidence] + (show(self.shown) if self.shown else "")
        if self.given:
            setting, kind, test = self.given
            text += f"; with {with_}{setting}{with_}: {EVIDENCE[kind]}{show(test)}"
        return text

    def __str__(self) -> str:
        width = max((len(name) for name in self.fields), default=0)
        lines = [f"{self.name}: {self.summary}", f"  stage: {', '.join(self.stages)}"]
        if self.needs:
            lines.append(
                f"  needs: {'; '.join(f'{one} ({WORDS[one]})' if one in WORDS else one for one in self.needs)}"
            )
        if costs := [COSTS[one] for one in self.needs if one in COSTS]:
            lines.append(f"  which costs: {'; '.join(costs)}")
        if self.composes:
            lines.append(f"  stands for: {self.composes}")
        if self.aliases:
            lines.append(f"  also: {', '.join(self.aliases)}")
        if self.paper:
            lines.append(f"  paper: {self.paper}{f' ({self.venue})' if self.venue else ''}")
        if self.evidence:
            lines.append(f"  evidence: {self.told('')}")
        lines += [
            f"  {name:<{width}} = {default!r}  ({annotation})" for name, (annotation, default) in self.fields.items()
        ]
        return "\n".join(lines)


def card(cls: type[Strategy]) -> Description:
    """The card of a strategy's class."""
    summary = (cls.__doc__ or "").strip().split("\n", 1)[0]
    fields = {f.name: (_annotation(f.type), f.default) for f in dataclasses.fields(cls) if f.init}
    more: list[Any] = [cls.venue, cls.evidence, cls.shown, needed.of_class(cls), _kind(cls.__module__)]
    more += [getattr(cls, "composes", ""), cls.given]
    return Description(cls.name, summary, cls.stages(), cls.paper, fields, cls.aliases, *more)


@functools.cache
def written_cards(package: str = "vtokens.strategies") -> dict[str, tuple[Description, str]]:
    """The cards of a package's strategies by name, and where each class is, read without importing them (nor torch).

    A strategy whose source does not say all of this plainly is imported, and left out here.
    """
    found = written(package, "register", "Strategy", _read)
    return {text.name: (text, where) for text, where in found}


def _read(found: RegisteredClass) -> tuple[Description, str]:
    if len(found.arguments) != 1:
        raise Unread
    aliases = tuple(found.keywords.get("aliases", ()))
    names = found.names()
    stages = tuple(found.returned("stages")) if "stages" in names else tuple(s for s in STAGES if f"at_{s}" in names)
    paper, *more = (found.keywords.get(one, "") for one in ("paper", "venue", "evidence", "shown"))
    more += [needed.of_source(found.lineage), _kind(found.module)]
    more += [found.constant("composes") if "composes" in names else "", tuple(found.keywords.get("given", ()))]
    text = Description(found.arguments[0], found.summary(), stages, paper, found.fields(), aliases, *more)
    return text, f"{found.module}.{found.lineage[0].name}"


def _kind(module: str) -> str:
    """The folder of the package that a module stands in."""
    package, _, name = module.rpartition(".")
    return package.removeprefix("vtokens.strategies.") if package.startswith("vtokens.strategies.") and name else ""


def _annotation(kind: Any) -> str:
    # A string where the module defers annotations, the type itself where it does not.
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind)
