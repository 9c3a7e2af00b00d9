"""Strategies as text, dicts and JSON, each way, for whatever the registry holds; and what is refused."""

import contextlib
import dataclasses
import json
import math
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from vtokens.strategies import Composition, Strategy, format_spec, get, list_strategies, parse, to_dict
from vtokens.strategies.prune.cls import Cls
from vtokens.strategies.prune.fastv import FastV
from vtokens.strategies.prune.random import Random
from vtokens.strategies.prune.todre import Todre

KEEPS = st.floats(0, 1, exclude_min=True) | st.integers(1, 10_000)


def values(kind: Any, name: str) -> st.SearchStrategy:
    """Values of a field by its annotation."""
    if name == "keep":
        return KEEPS
    if kind is type(None):
        return st.none()
    if getattr(kind, "__origin__", None) is tuple:
        return st.lists(st.integers(-30, 30), min_size=1, max_size=4).map(tuple)
    choices = get_args(kind)
    if choices and all(isinstance(choice, str) for choice in choices):
        return st.sampled_from(choices)
    if choices:
        return st.one_of(*(values(choice, "") for choice in choices))
    return {
        int: st.integers(-100, 10**6),
        float: st.floats(allow_nan=False, allow_infinity=False),
        bool: st.booleans(),
        str: st.text(),
    }[kind]


@st.composite
def built(draw: st.DrawFn) -> Strategy:
    """Any registered strategy with any of its fields set to values that it accepts."""
    # Compositions are read as their parts.
    whole = [name for name in list_strategies() if not issubclass(get(name), Composition)]
    cls = get(draw(st.sampled_from(whole)))
    hints = get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls) if f.init]
    chosen = draw(st.lists(st.sampled_from(names), unique=True)) if names else []
    try:
        return cls(**{name: draw(values(hints[name], name)) for name in chosen})
    except (ValueError, TypeError):
        assume(False)
        raise


def same(left: Strategy, right: Strategy) -> bool:
    """Equal in class, fields and the types of the fields: keep=1 is a count, keep=1.0 a share."""
    return left == right and repr(left) == repr(right)


@given(st.lists(built(), max_size=3))
def test_text_dict_and_json_come_back(strategies: list[Strategy]) -> None:
    """What was written is what is read, in the same order."""
    text = format_spec(strategies)
    dicts = [to_dict(s) for s in strategies]
    for again in (parse(text), parse(dicts), parse(json.loads(json.dumps(dicts))), parse(strategies)):
        assert len(again) == len(strategies)
        assert all(same(a, b) for a, b in zip(again, strategies, strict=True))
    assert format_spec(parse(text)) == text


@given(st.text(max_size=40))
def test_any_text_parses_or_is_refused_cleanly(text: str) -> None:
    """No text ends in anything but strategies, a ValueError or a TypeError."""
    with contextlib.suppress(ValueError, TypeError):
        assert all(isinstance(s, Strategy) for s in parse(text))


@given(st.text(alphabet="fastvclrandom(=,.+-0125'\"[]{}:*) ekpnaielyr", max_size=60))
def test_near_misses_parse_or_are_refused_cleanly(text: str) -> None:
    """The same for text made of the characters that specs are made of."""
    with contextlib.suppress(ValueError, TypeError):
        assert all(isinstance(s, Strategy) for s in parse(text))


@pytest.mark.parametrize("text", ["-" * 50_000 + "1", "(" * 500 + "cls" + ")" * 500, "cls(layers=" + "[" * 5000])
def test_hostile_depth_is_refused_cleanly(text: str) -> None:
    """Nesting deeper than the reader can follow is bad syntax, not a crash."""
    with pytest.raises(ValueError, match="cannot read the strategy"):
        parse(text)


def test_what_can_be_written() -> None:
    """Each way of naming a strategy gives the object it names."""
    assert parse("fastv") == (FastV(),)
    assert parse(" fastv ( keep = 0.25 , layer = 3 ) ") == (FastV(keep=0.25, layer=3),)
    assert parse("todre(objective=kcenter, exit_threshold=none)") == (Todre(objective="kcenter", exit_threshold=None),)
    assert parse("todre(objective='kcenter', exit_threshold=None)") == parse(
        "todre(objective=kcenter,exit_threshold=none)"
    )
    assert parse("cls(layers=(16, 17))") == parse("cls(layers=[16, 17])") == (Cls(layers=(16, 17)),)
    assert parse("cls(layers=(-2,))") == (Cls(layers=(-2,)),)
    assert parse({"name": "cls", "layers": [1, 2]}) == (Cls(layers=(1, 2)),)
    assert parse(FastV(layer=3), keep=None) == (FastV(layer=3),)
    assert parse("random", seed=5) == (Random(seed=5),)
    assert parse("contrast(branch=cls(keep=0.25)+vhr)") == parse("contrast(branch='cls(keep=0.25) + vhr')")
    assert parse(None) == parse("none") == parse([]) == parse([None, "none"]) == ()
    assert format_spec(()) == "none"


def test_composition_keeps_the_written_order() -> None:
    """`+` and lists compose, nested or not, and mix kinds."""
    expected = (Cls(keep=0.5), FastV(), Random(keep=3))
    assert parse("cls(keep=0.5)+fastv + random(keep=3)") == expected
    assert parse(["cls(keep=0.5)+fastv", {"name": "random", "keep": 3}]) == expected
    assert parse([Cls(keep=0.5), ["fastv", Random(keep=3)]]) == expected
    assert format_spec(expected) == "cls(keep=0.5)+fastv+random(keep=3)"


def test_keep_goes_to_the_one_strategy_that_lacks_it() -> None:
    """`keep=` fills the one strategy without a keep of its own; none or several is an error that names them."""
    assert parse("fastv(layer=3)", keep=0.1) == (FastV(keep=0.1, layer=3),)
    assert parse("cls(keep=0.5)+fastv", keep=0.1) == (Cls(keep=0.5), FastV(keep=0.1))
    with pytest.raises(ValueError, match=r"keep=0.1 is ambiguous: cls, fastv would take it; write for example"):
        parse("cls+fastv", keep=0.1)
    with pytest.raises(ValueError, match=r"keep=0.1 has no strategy to take it \(cls has keep=0.5 already\): write"):
        parse("cls(keep=0.5)", keep=0.1)
    with pytest.raises(ValueError, match=r"keep=0.1 has no strategy to take it: write"):
        parse("vhr", keep=0.1)
    with pytest.raises(ValueError, match=r"options \['layer'\] need a single strategy, got 2"):
        parse("cls+fastv", layer=3)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("fastvv", r"unknown strategy 'fastvv'\. Did you mean 'fastv'\? Allowed: .*todre"),
        ("randm(keep=0.5)", r"Did you mean 'random'\?"),
        ("zzzzzz", r"unknown strategy 'zzzzzz'\. Allowed: "),
        (
            "fastv(kep=0.5)",
            r"unknown field of strategy 'fastv': 'kep'\. Did you mean 'keep'\? Allowed: budget, keep, layer",
        ),
        ({"name": "cls", "layer": 3}, r"unknown field of strategy 'cls': 'layer'\. Did you mean 'layers'\?"),
        ("todre(objective=maxsun)", r"unknown objective 'maxsun'\. Did you mean 'maxsum'\?"),
        ("fastv(query_scope=all)", r"unknown query_scope 'all'.*all_text"),
        ("fastv(pool=batch)", r"unknown pool 'batch'.*image, sample"),
        ("fastv(0.5)", r"cannot read the strategy 'fastv\(0.5\)': fields are given by name"),
        ("fastv(**x)", r"'\*\*' is not allowed"),
        ("fastv(keep=0.5", r"cannot read the strategy"),
        ("", r"cannot read the strategy ''"),
        ("fastv-cls", r"cannot read the strategy 'fastv-cls'"),
        ("a.b", r"cannot read the strategy"),
        ("fastv(keep=1+x)", r"cannot read the value '1\+x'"),
        ("cls(layers=print(1))", r"cannot read the value 'print\(1\)'"),
        ("cls(layers={[1]: 2})", r"cannot read the value"),
        ("fastv(keep=0.5, keep=0.1)", r"'keep' is given twice"),
        ("fastv(keep=0)", r"keep=0 keeps nothing"),
        ("fastv(keep=-0.5)", r"keep=-0.5 is out of range"),
        ("fastv(keep=1.5)", r"keep=1.5 is out of range"),
        ("fastv(keep=nan)", r"keep=nan is out of range"),
        ("fastv(keep=inf)", r"keep=inf is out of range"),
        ("todre(exit_threshold=nan)", r"exit_threshold=nan"),
        ("todre(exit_threshold=inf)", r"exit_threshold=inf"),
        ("todre(exit_threshold=-0.1)", r"exit_threshold=-0.1 is not a share"),
        ("todre(exit_depth=1.0)", r"exit_depth=1.0 is out of range"),
        ({"keep": 0.5}, r"needs a 'name', got the keys \['keep'\]"),
    ],
)
def test_bad_specs_say_what_is_wrong(spec: Any, message: str) -> None:
    """Each message names the value, what is allowed and, for a typo, the nearest right name."""
    with pytest.raises(ValueError, match=message):
        parse(spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (3, r"3 does not name a strategy"),
        (FastV, r"does not name a strategy"),
        ({"name": ["fastv"]}, r"\['fastv'\]"),
        ("fastv(keep=half)", r"keep='half' is not a number"),
        ("fastv(keep=true)", r"keep=True is not a number"),
        ("todre(exit_threshold=low)", r"exit_threshold='low'"),
        ("todre(exit_depth=late)", r"exit_depth='late'"),
        ("random(seed=lucky)", r"seed='lucky'"),
        ("random(seed=1.5)", r"seed=1.5"),
    ],
)
def test_wrong_types_say_so(spec: Any, message: str) -> None:
    """A value of another type is a TypeError that shows it, before any model is involved."""
    with pytest.raises(TypeError, match=message):
        parse(spec)


def test_a_default_of_another_type_is_still_written() -> None:
    """keep=1 (a count) must not vanish from the text of a strategy whose default is keep=1.0 (everything)."""

    @dataclasses.dataclass(frozen=True)
    class Whole(Strategy):
        name = "whole"
        keep: float | int = 1.0

    assert format_spec([Whole(keep=1)]) == "whole(keep=1)"
    assert format_spec([Whole()]) == "whole"


def test_nan_never_becomes_a_setting() -> None:
    """Not through Python, text or dict."""
    for make in (lambda: FastV(keep=math.nan), lambda: parse("fastv(keep=nan)"), lambda: parse("fastv", keep=math.nan)):
        with pytest.raises(ValueError, match="keep=nan"):
            make()


def test_a_word_of_pythons_is_a_value_too() -> None:
    """`global` is one, which a user writes as any other choice; inside quotes nothing is changed."""
    assert parse("cls(budget=global, keep=0.5)+random(budget = global )") == parse(
        "cls(budget='global', keep=0.5)+random(budget='global')"
    )
    assert parse(format_spec(parse("fastv(budget=global)"))) == parse("fastv(budget='global')")
    assert parse("contrast(branch='cls(budget=global)')")[0].branch == "cls(budget=global)"  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="unknown budget 'lambda'"):
        parse("cls(budget=lambda)")
