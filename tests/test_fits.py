"""Which families refuse which strategies, told without a model: what attaching them to genuine models says."""

from __future__ import annotations

import pytest

import vtokens
from tests.families import BROKEN, build
from vtokens.adapters.fits import fit, refusal
from vtokens.strategies import describe, list_strategies

FAMILIES = ("aya_vision", "gemma3", "kimi_k25", "llava", "mllama", "qwen3_vl", "qwen3_vl_moe", "smolvlm", "llama4")
FAMILIES = tuple(family for family in FAMILIES if family not in BROKEN)
MODIFIERS = {"restore"}
"""What stands behind another."""


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_told_is_what_attaching_does(family: str) -> None:
    """Defaults of strategies that ship no numbers for this tiny model are attached if they are said to run."""
    model, _ = build(family)
    attached = {}
    for name in list_strategies():
        try:
            vtokens.attach(model, f"uniform+{name}" if name in MODIFIERS else name).detach()
            attached[name] = ""
        except ValueError as error:
            attached[name] = str(error)
    tables = {name for name in attached if "table" in describe(name).needs}
    alone = {name for name in attached if fit(name, family).startswith("before the decoder alone")}
    given = {name: fit(name, family).split("`")[1] for name in attached if fit(name, family).startswith("with `")}
    for name in given.keys() - tables:  # as it is, it is refused, and with what is told it runs
        assert attached[name], name
        vtokens.attach(model, f"{name}({given[name]})").detach()
    compared = {*attached} - tables - alone - {*given}
    wrong = {name: (attached[name], fit(name, family)) for name in compared}
    assert {name: told for name, told in wrong.items() if bool(told[0]) != bool(refusal(name, family))} == {}
    assert list_strategies(family=family) == [name for name in attached if not refusal(name, family)]


def test_an_unknown_family_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"unknown family 'qwen3vl'\. Did you mean 'qwen3_vl'"):
        vtokens.strategies(family="qwen3vl")
    with pytest.raises(ValueError, match=r"unknown strategy 'fastw'"):
        refusal("fastw", "llava")
