"""A share that is written as 1 is all there is, as 1.0 is: only `keep` can be a count."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch

from tests.strategies.staging import shown
from vtokens.strategies import StagedPruner, format_spec, get, list_strategies, parse
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


@pytest.mark.parametrize("name", ["duet", "vscan", "information_horizon"])
def test_what_a_composition_leaves_late(name: str) -> None:
    """As text, for 1 and 1.0 are equal where strategies are compared."""
    assert format_spec(parse(f"{name}(late=1)")) == format_spec(parse(f"{name}(late=1.0)"))


def test_a_layer_of_a_composition_may_be_a_number() -> None:
    assert "layers=(2,)" in format_spec(parse("vscan(layer=2)"))
    assert "layers=(3,)" in format_spec(parse("information_horizon(horizon=3)"))
