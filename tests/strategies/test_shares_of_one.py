"""A share that is written as 1 is all there is, as 1.0 is: only `keep` can be a count."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, cast

import pytest
import torch

from tests.strategies.staging import shown
from vtokens.strategies import StagedPruner, Strategy, format_spec, get, list_strategies, parse, to_dict
from vtokens.strategies.fields import checked
from vtokens.strategies.signals import Attention

STAGED = [name for name in list_strategies() if issubclass(get(name), StagedPruner)]


@pytest.mark.parametrize("name", STAGED)
def test_stages_that_leave_all(name: str) -> None:
    strategy = cast(Any, get(name))(keep=0.2, layers=(1, 2, 3), before=(1, 0.5))
    assert [strategy._left(100, stage) for stage in range(3)] == [100, 50, 20]


def test_all_heads_of_a_stage() -> None:
    received = torch.rand(6, 4, generator=torch.Generator().manual_seed(0))
    visuals = shown({Attention(0, "raters", pool="each", level=True): received}, torch.zeros(6, 8), 0, 6)
    for heads in (1, 1.0):
        torch.testing.assert_close(cast(Any, get("sparsevlm_plus"))(heads=heads).score(visuals, 1)[0], received.mean(1))


@pytest.mark.parametrize("name", list_strategies())
def test_whole_numbers_in_fields_that_hold_floats(name: str) -> None:
    """As text, for 1 and 1.0 are equal where strategies are compared; what is refused is so in the same words."""
    for field in dataclasses.fields(get(name)):
        annotation = str(field.type)
        if field.init and "float" in annotation and "int" not in annotation and field.name != "keep":
            places = 2 if "tuple" in annotation else 0
            whole, shares = ((one,) * places if places else one for one in (1, 1.0))
            assert said(name, {field.name: whole}) == said(name, {field.name: shares})


def said(name: str, fields: dict[str, Any]) -> list[str]:
    """How a strategy with these fields is written, and what a composition stands for; or why it is refused."""
    try:
        return [json.dumps(to_dict(get(name)(**fields))), format_spec(parse({"name": name, **fields}))]
    except ValueError as error:
        return [str(error)]


def test_a_field_that_takes_either_keeps_whole_numbers_and_tuples_are_read_one_by_one() -> None:
    assert json.dumps(checked(Either, {"one": 1, "other": 1, "many": [1, 0.5], "few": (2, 1)})) == (
        '{"one": 1, "other": 1, "many": [1.0, 0.5], "few": [2, 1.0]}'
    )
    with pytest.raises(ValueError, match="numbers have to be finite"):
        parse({"name": "vcd", "alpha": 10**400})


@dataclasses.dataclass(frozen=True)
class Either(Strategy):
    """Fields as another package may write them."""

    one: float | int = 0
    other: int | float | None = None
    many: tuple[float, ...] | None = None
    few: tuple[int, float] = (0, 0.5)


def test_a_layer_of_a_composition_may_be_a_number() -> None:
    assert "layers=(2,)" in format_spec(parse("vscan(layer=2)"))
    assert "layers=(3,)" in format_spec(parse("information_horizon(horizon=3)"))
