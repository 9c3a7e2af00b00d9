"""What is listed is read from sources, never run: it is what the classes say, or the class is imported after all."""

from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.strategies.helpers import registry_restored
from vtokens.adapters import adapter_class, examples, models
from vtokens.adapters import registry as adapters
from vtokens.strategies import registry
from vtokens.strategies.card import card, written_cards


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """Strategies of the package are imported, and names registered by a test are gone after it."""
    with registry_restored():
        yield


def test_cards_that_are_read_are_those_of_the_classes() -> None:
    """For every strategy: summary, stages, paper, fields with annotation and default, aliases, and where it is."""
    ours = {name: cls for name, cls in registry._strategies.items() if cls.__module__.startswith("vtokens.")}
    assert len(ours) > 10
    assert written_cards() == {name: (card(cls), f"{cls.__module__}.{cls.__qualname__}") for name, cls in ours.items()}


def test_examples_that_are_read_are_those_of_the_adapters() -> None:
    """For every family of the package, none of which has to be imported to be listed."""
    ours = {name: adapter_class(name) for name in models()}
    ours = {name: cls for name, cls in ours.items() if cls.__module__.startswith("vtokens.")}
    assert len(ours) > 3
    assert adapters._written_examples() == {name: cls.examples for name, cls in ours.items()}
    assert {name: examples(name) for name in ours} == adapters._written_examples()


HEAD = """
from __future__ import annotations
import functools
import math
from dataclasses import InitVar, dataclass, field
from typing import ClassVar, Literal
from vtokens.strategies import Selection, Strategy, Visuals, register
NAME = "drawn"

class Mixin:
    def at_layer(self, visuals: Visuals, index: int) -> Selection | None:
        return None
"""
PLAIN = '''
@register("drawn", paper="P", aliases=["also"])
@dataclass(frozen=True)
class Plain(Strategy):
    """  Does something.

    And more."""

    seen: ClassVar[bool] = True
    keep: float | None = -0.5
    names: tuple[str, ...] = ("a", 'b')
    kind: Literal["x", "y"] = "x"
    most: float = field(default=2.0, metadata={"unlimited": True})
    own: int = field(default=3, init=False)

    def at_prompt(self, visuals: Visuals) -> Selection | None:
        return None
'''
BASES = '''
@dataclass(frozen=True)
class Based(Strategy):
    """A base that acts where its classes say."""

    first: int = 1
    stage: ClassVar[str] = "layer"

    @classmethod
    def stages(cls) -> tuple[str, ...]:
        """One."""
        return (cls.stage,)

@dataclass(frozen=True)
class Branching(Based):
    """A base that acts where only running it tells."""

    @classmethod
    def stages(cls) -> tuple[str, ...]:
        return ("prompt",) if cls.first else ("layer",)
'''
CHILD = '''
from PACKAGE.bases import Based, Branching

@dataclass(frozen=True)
class Middle(Based):
    """Adds a field."""

    second: int = 2

@register("drawn")
@dataclass(frozen=True)
class Child(Middle):
    """Redefines a field of its base, which keeps its place."""

    stage = "prompt"
    third: int = 3
    first: int = 10
    own: int = field(default=3, init=False)
'''


READ = {
    "plain": PLAIN,
    "without_paper": PLAIN.replace(', paper="P", aliases=["also"]', ""),
    "all_given": PLAIN.replace("init=False", "init=True"),
    "child": CHILD,
    "sibling": BASES
    + CHILD.replace("from PACKAGE.bases import Based, Branching\n", "")
    .replace('"drawn"', '"first"')
    .replace("Child", "First")
    .replace('"prompt"', '"attend"')
    + CHILD.partition("class Middle")[2].partition("int = 2\n")[2],
    "own_base": BASES + CHILD.replace("from PACKAGE.bases import Based, Branching\n", ""),
    "dotted_base": PLAIN.replace("@register", "import vtokens\n\n@register").replace(
        "(Strategy)", "(vtokens.strategies.Strategy)"
    ),
    "assigned_stage": PLAIN + "\n    at_layer = Mixin.at_layer\n",
    "own_word": "register_later = None\n" + PLAIN,
}
TOLD_BY_IMPORT = {
    "computed_default": PLAIN.replace("-0.5", "math.inf"),
    "factory": PLAIN.replace("-0.5", "field(default_factory=float)"),
    "required": PLAIN.replace("float | None = -0.5", "float | None"),
    "init_var": PLAIN.replace("keep: float | None = -0.5", "keep: InitVar[float] = -0.5").replace(
        "    def at_prompt", "    def __post_init__(self, keep: float) -> None:\n        pass\n\n    def at_prompt"
    ),
    "named": PLAIN.replace('"drawn"', "NAME"),
    "no_dataclass": PLAIN.replace("@dataclass(frozen=True)\n", ""),
    "no_docstring": PLAIN.replace('"""  Does something.\n\n    And more."""\n', ""),
    "mixin": PLAIN.replace("(Strategy)", "(Mixin, Strategy)"),
    "called": PLAIN.replace('@register("drawn", paper="P", aliases=["also"])\n', "") + '\nregister("drawn")(Plain)\n',
    "renamed": PLAIN.replace("@register(", "from vtokens.strategies import register as known\n\n@known("),
    "nested": "if NAME:\n" + textwrap.indent(PLAIN, "    "),
    "generated": PLAIN + '\nfor name in ("one", "two"):\n    register(name)(type(name, (Plain,), {"__doc__": name}))\n',
    "branching": CHILD.replace("Middle(Based)", "Middle(Branching)"),
    "undeferred": PLAIN,
    "registered_twice": PLAIN.replace("@register", '@register("again")\n@register'),
    "decorated": PLAIN.replace("@register", "@functools.cache\n@register"),
    "conditional_stage": PLAIN.replace("    def at_prompt", "    if NAME:\n\n        def at_layer")
    .replace("        return None", "            return None")
    .replace("visuals: Visuals)", "visuals: Visuals, index: int)"),
}


def package(name: str, text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a package in `folder` with one module that registers, and a module of bases."""
    found = f"drawn_{name}"
    (folder / found).mkdir()
    head = HEAD.replace("from __future__ import annotations\n", "") if name == "undeferred" else HEAD
    for module, body in {"__init__": "", "bases": HEAD + BASES, "module": head + text}.items():
        (folder / found / f"{module}.py").write_text(body.replace("PACKAGE", found))
    monkeypatch.syspath_prepend(str(folder))
    return found


@pytest.mark.parametrize("name", READ)
def test_what_is_said_plainly_is_read(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The card is the one of the class, imported afterwards."""
    found = package(name, READ[name], tmp_path, monkeypatch)
    read, where = written_cards(found)["drawn"]
    assert f"{found}.module" not in sys.modules
    importlib.import_module(f"{found}.module")
    cls = registry.get("drawn")
    assert (read, where) == (card(cls), f"{cls.__module__}.{cls.__qualname__}")


@pytest.mark.parametrize("name", TOLD_BY_IMPORT)
def test_what_is_not_said_plainly_is_imported(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is read, and nothing is missing: the module has registered what it registers."""
    found = package(name, TOLD_BY_IMPORT[name], tmp_path, monkeypatch)
    assert written_cards(found) == {}
    assert f"{found}.module" in sys.modules
    assert registry.get("drawn").__module__ == f"{found}.module"
