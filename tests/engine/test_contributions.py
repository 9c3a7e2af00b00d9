"""What `handle.report()` says that each strategy contributed."""

from __future__ import annotations

import pytest
import torch

import vtokens
from tests.engine.cases import model
from tests.engine.compare import ragged


@torch.no_grad()
def test_each_strategy_tells_what_it_did() -> None:
    target = model("llava", "pruned")
    with vtokens.attach(target, "cls(keep=0.5)+fastv(keep=0.5, layer=2)+vhr(layers=(1, 3))") as handle:
        target(**ragged("llava"))
        report = handle.report()
    cls, fastv, vhr = report.contributions
    assert cls.tokens == (16.0, 8.0)  # three pictures of 16 tokens in three samples
    assert fastv.tokens == (8.0, 4.0)
    assert vhr.tokens is None
    # Half of the heads, in the two samples that have pictures.
    assert vhr.figures == {"heads_reinforced": pytest.approx(1 / 3)}
    assert str(report).splitlines()[1:] == [f"  {part}" for part in (cls, fastv, vhr)]
    assert str(cls) == "cls(keep=0.5): 16.0 to 8.0 visual tokens"


@torch.no_grad()
def test_a_single_pruner_has_one_line() -> None:
    target = model("llava", "pruned")
    with vtokens.attach(target, "uniform(keep=0.5)") as handle:
        target(**ragged("llava"))
        report = handle.report()
    assert report.contributions[0].figures == {}
    assert "\n" not in str(report)
