"""Fields of strategies are held against their annotations, in one place, for strategies of other packages too."""

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest

from vtokens.core.budget import Keep
from vtokens.strategies import Strategy, get, list_strategies, parse
from vtokens.strategies.fields import UNLIMITED
from vtokens.strategies.registry import register

if TYPE_CHECKING:
    from collections.abc import Hashable

EVERY = [(name, f.name) for name in list_strategies() for f in dataclasses.fields(get(name)) if f.init]


class _Nothing:
    """No field of ours takes it."""


@pytest.mark.parametrize(("name", "field"), EVERY)
def test_no_field_takes_what_it_is_not(name: str, field: str) -> None:
    """Whatever is registered: NaN, infinities, objects and, where it is no choice, a bool or None."""
    annotation, unlimited = _fields(name)[field]
    wrong: list[Any] = [math.nan, -math.inf, _Nothing(), (True,), (math.nan,), {"a": 1}, b"x"]
    wrong += [] if "bool" in annotation else [True]
    wrong += [] if "None" in annotation else [None]
    wrong += [] if unlimited else [math.inf]
    for value in wrong:
        for make in (
            lambda value=value: parse({"name": name, field: value}),
            lambda value=value: get(name)(**{field: value}),
        ):
            with pytest.raises((ValueError, TypeError), match=field):
                make()


def _fields(name: str) -> dict[str, tuple[str, bool]]:
    # Only mminference's limit may be infinite, which switches it off.
    fields = [f for f in dataclasses.fields(get(name)) if f.init]
    return {f.name: (str(f.type), (name, f.name) == ("mminference", "max_cost")) for f in fields}


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ({"name": "fastv", "keep": None}, TypeError, "keep=None is not a number: a float in"),
        ({"name": "dymu", "thresholds": (True,)}, TypeError, r"thresholds=\(True,\) is not allowed: a text or a tuple"),
        ({"name": "damro", "k": True}, TypeError, "k=True is not allowed: a whole number is"),
        (
            {"name": "vhr", "layers": [1, None]},
            TypeError,
            r"layers=.* is not allowed: a tuple of whole numbers or None",
        ),
        ("vhr(layers=3)", TypeError, r"Did you mean layers=\(3,\)\?"),
        ("vhr(alpha=true)", TypeError, "alpha=True is not allowed: a number is"),
        ("contrast(branch=3)", TypeError, "branch=3 is not allowed: a text is"),
        ("mminference(max_cost=nan)", ValueError, "max_cost=nan"),
        ("avisc(others=drp)", ValueError, "unknown others 'drp'. Did you mean 'drop'"),
        ("pine(keep=2)", ValueError, "unknown field of strategy 'pine': 'keep'. There are none$"),
        ("var(first_layer=2.0)", TypeError, "first_layer=2.0 is not allowed: a whole number is"),
    ],
)
def test_messages(spec: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        parse(spec)


@pytest.mark.parametrize(("name", "field"), [("var", "sinks"), ("mminference", "patterns"), ("dymu", "thresholds")])
def test_a_path_names_a_file(name: str, field: str) -> None:
    assert parse({"name": name, field: Path("a", "b.json")}) == parse(f"{name}({field}='a/b.json')")


@dataclasses.dataclass(frozen=True)
class Plugin(Strategy):
    """As another package would have it: it checks nothing itself, and does not call its parent's check."""

    keep: Keep | None = None
    count: int = 3
    pairs: tuple[tuple[int, float], ...] = ()
    mode: Literal["a", 2] | None = None
    limit: float = dataclasses.field(default=1.0, metadata=UNLIMITED)
    other: "Hashable" = 0
    table: dict[str, int] | None = None

    def __post_init__(self) -> None:
        pass


@pytest.fixture(scope="module", autouse=True)
def _registered() -> Any:
    register("fields_of_a_plugin")(Plugin)
    yield
    from vtokens.strategies import registry

    registry._strategies.pop("fields_of_a_plugin")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"count": "3"}, "count='3' is not allowed: a whole number is"),
        ({"count": True}, "count=True is not allowed"),
        ({"pairs": ((1, "x"),)}, r"pairs=.* is not allowed: a tuple of"),
        ({"pairs": ((1, 2, 3),)}, "pairs="),
        ({"mode": "b"}, "unknown mode 'b'"),
        ({"mode": 3}, "mode=3 is not allowed: 'a' or 2 or None is"),
        ({"keep": 0}, "keep=0 keeps nothing"),
        ({"limit": math.nan}, "limit=nan"),
    ],
)
def test_a_plugin_is_checked_too(fields: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        parse({"name": "fields_of_a_plugin", **fields})


def test_what_fits_becomes_plain() -> None:
    """numpy's numbers and JSON's lists; inf where it is said; annotations that say nothing we know let all through."""
    given = {"count": np.int64(4), "pairs": [[1, np.float32(0.5)], [2, 3]], "mode": 2, "limit": math.inf}
    [strategy] = parse({"name": "fields_of_a_plugin", **given, "other": object, "table": {"x": 1}})
    assert isinstance(strategy, Plugin)
    assert (strategy.count, strategy.pairs, strategy.mode, strategy.limit) == (4, ((1, 0.5), (2, 3)), 2, math.inf)
    assert type(strategy.count) is int
    assert [type(part) for part in strategy.pairs[0]] == [int, float]
    assert strategy.other is object
    assert strategy.table == {"x": 1}
    assert strategy.keep is None
