"""The registry: listing, descriptions, registration and its refusals, plugins that do not load."""

import dataclasses
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

import vtokens
from tests.strategies.helpers import registry_restored
from vtokens.filter.signals.registry import list_signals
from vtokens.recipes import recipes
from vtokens.strategies import Selection, Strategy, Visuals, describe, get, list_strategies, parse, register
from vtokens.strategies.base import STAGES

FIRST = {"random", "uniform", "cls", "fastv", "todre"}


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """Names registered by a test are gone after it."""
    with registry_restored():
        yield


def test_listing_with_wildcards_and_stages() -> None:
    """As timm lists models: sorted names, one or several patterns, and a filter by stage."""
    assert set(list_strategies()) >= FIRST
    assert list_strategies() == sorted(list_strategies())
    assert list_strategies("fastv") == ["fastv"]
    assert list_strategies("t?dre") == ["todre"]
    assert list_strategies(["fast[uv]", "rand*"]) == ["fastv", "random"]
    assert list_strategies("nothing*") == []
    by_stage = {stage: set(list_strategies(stage=stage)) for stage in STAGES}
    assert {"random", "uniform", "cls", "todre"} <= by_stage["prompt"]
    assert {"fastv", "todre"} <= by_stage["layer"]
    assert "fastv" not in by_stage["prompt"]
    assert "cls" not in by_stage["layer"]
    assert vtokens.strategies("cl*") == ["cls"]


def test_listing_by_what_is_needed() -> None:
    """All that is asked for, with other filters; words that mean the same find the same."""
    reads = {name: describe(name).needs for name in list_strategies()}
    saliency = [name for name, needs in reads.items() if "saliency" in needs]
    assert {"cls", "todre", "damro"} <= {*saliency}
    assert (
        list_strategies(needs="cls") == list_strategies(needs="saliency") == list_strategies(needs=["cls"]) == saliency
    )
    assert vtokens.strategies(needs=["cls", "attention"], stage="layer") == [
        name for name in saliency if "attention" in reads[name] and "layer" in describe(name).stages
    ]
    assert "todre" in list_strategies("t*", needs=("cls", "attention"))
    assert list_strategies("uni*", needs="cls") == []
    with pytest.raises(ValueError, match=r"unknown need 'clss'\. Did you mean 'cls'\?"):
        list_strategies(needs="clss")
    with pytest.raises(ValueError, match=r"unknown stage 'promt'\. Did you mean 'prompt'\?"):
        list_strategies(stage="promt")


@pytest.mark.parametrize("name", sorted(FIRST))
def test_descriptions_are_complete(name: str) -> None:
    """Every strategy says what it does, where it acts, and each of its fields with type and default."""
    card, cls = describe(name), get(name)
    assert card.name == name == cls.name
    assert card.summary.endswith(".")
    assert card.stages == cls.stages() != ()
    assert set(card.fields) == {f.name for f in dataclasses.fields(cls)}
    for field in dataclasses.fields(cls):
        assert card.fields[field.name][1] == field.default
        told = "".join(base.__doc__ or "" for base in cls.__mro__ if issubclass(base, Strategy))
        assert f"{field.name}:" in told, f"{name}: no docstring explains {field.name}"
        assert f"{field.name} " in str(card)
    if name not in ("random", "uniform"):  # the two that nobody published
        assert "arXiv:" in card.paper
        assert card.paper in str(card)
    assert vtokens.describe(name) == card


def test_an_unknown_name_names_the_nearest() -> None:
    """For describe and get alike."""
    for look_up in (describe, get):
        with pytest.raises(ValueError, match=r"unknown strategy 'todree'\. Did you mean 'todre'\?"):
            look_up("todree")


def test_registering_makes_a_strategy_usable_by_name() -> None:
    """A dataclass under `register` parses, lists and describes like those of the package."""
    name = "mine"

    @register(name, paper="A paper")
    @dataclasses.dataclass(frozen=True)
    class Mine(Strategy):
        """Keeps what it is told."""

        share: float = 0.5

        def at_prompt(self, visuals: Visuals) -> Selection | None:
            return None

    assert parse(f"{name}(share=0.25)") == (Mine(share=0.25),)
    assert list_strategies("min*", stage="prompt") == [name]
    assert name not in list_strategies(stage="layer")
    card = describe(name)
    assert (card.summary, card.paper, card.stages) == ("Keeps what it is told.", "A paper", ("prompt",))
    assert card.fields == {"share": ("float", 0.5)}


def test_a_name_belongs_to_one_class() -> None:
    """A second class is refused and told who holds the name; the same class again, as on a reload, is not."""
    name = "mine"

    def define() -> type[Strategy]:
        @register(name)
        @dataclasses.dataclass(frozen=True)
        class Mine(Strategy):
            """One."""

        return Mine

    define()
    again = define()
    assert get(name) is again
    with pytest.raises(ValueError, match=rf"'{name}' is already registered by {__name__}\..*Mine"):

        @register(name)
        @dataclasses.dataclass(frozen=True)
        class Other(Strategy):
            """Two."""

    with pytest.raises(ValueError, match=r"'fastv' is already registered by vtokens\.strategies\.prune\.fastv\.FastV"):
        register("fastv")(type("FastV", (Strategy,), {}))
    assert get(name) is again


@pytest.mark.parametrize("name", ["fast-v", "FastV", "2fast", "", "fast v", "lambda", "none", "a.b"])
def test_a_name_must_be_readable_in_a_spec(name: str) -> None:
    """What the grammar of specs cannot read cannot be registered."""
    with pytest.raises(ValueError, match=r"is not a lower-case identifier such as 'fastv'"):
        register(name)


def test_a_broken_plugin_warns_and_takes_nothing_down(tmp_path: Path) -> None:
    """Entry points of two distributions on the path: one fails on import, the other loads; the log names the first."""
    for name, body in {
        "broken_plugin": "raise RuntimeError('its library is missing')",
        "sound_plugin": """
            import dataclasses
            from vtokens.strategies import Strategy, register

            @register("sound")
            @dataclasses.dataclass(frozen=True)
            class Sound(Strategy):
                "Does nothing."
        """,
    }.items():
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(body))
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[vtokens.strategies]\n{name} = {name}\n")
    code = f"""
        import logging, sys
        sys.path.insert(0, {str(tmp_path)!r})
        logging.basicConfig(format="%(levelname)s %(name)s %(message)s")
        import vtokens
        print(",".join(vtokens.strategies()))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert {"sound", *FIRST} <= set(done.stdout.strip().split(","))
    assert "WARNING vtokens strategy plugin 'broken_plugin' (broken_plugin) could not be loaded" in done.stderr
    assert "its library is missing" in done.stderr


def test_evidence_is_told() -> None:
    """A card says what shows that a strategy is the method, whether its source is read or it is imported."""

    @register("shown", paper="Paper", venue="Venue 2026", evidence="text", shown="tests/test_a.py::test_b")
    @dataclasses.dataclass(frozen=True)
    class Shown(Strategy):
        """Keeps everything."""

        def at_prompt(self, visuals: Visuals) -> Selection | None:
            return None

    text = str(describe("shown"))
    assert "paper: Paper (Venue 2026)" in text
    assert "evidence: from the paper's text (tests/test_a.py::test_b)" in text
    with pytest.raises(ValueError, match=r"unknown evidence 'texts'\. Did you mean 'text'"):
        register("shown_too", evidence="texts")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["two_fates", "clva", "vasparse", "videoanchor", "cmai", "ptp", "resprune"])
def test_known_methods_that_are_not_built_say_why_and_what_is_nearest(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name!r} is known and not built: ") as caught:
        vtokens.strategies.parse(f"{name}(keep=0.5)+fastv")
    told = re.findall(r"'(\w+)'|\"(\w+)\(", str(caught.value))[1:]
    nearest = [one or other for one, other in told]
    known = [*list_strategies(), *recipes()]
    assert nearest
    assert {*nearest} <= {*known}


def test_a_signal_of_the_filter_is_no_strategy() -> None:
    assert "agser" in list_signals()
    with pytest.raises(ValueError, match="'agser' is a signal of the filter, no strategy"):
        vtokens.strategies.parse("fastv+agser")
