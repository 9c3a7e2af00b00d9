"""Strategies that join an attachment for a while, and what is left when they go."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

import vtokens
from tests.engine.compare import GREEDY, one
from tests.engine.state import Astray, snapshot
from tests.families import FAMILIES, build
from vtokens.engine.attach import joined
from vtokens.strategies import Facts, Needs, Strategy

pytestmark = pytest.mark.usefixtures("no_grad")


@dataclass(frozen=True)
class Watch(Strategy):
    """Notes how many keys each call of layer 2 sees."""

    name = "watch"
    keys: list[int] = field(default_factory=list, compare=False)

    def needs(self, facts: Facts) -> Needs:
        return Needs(attend=(2,))

    def at_attend(self, heads: Any) -> None:
        self.keys.append(heads.key.shape[2])


@pytest.mark.parametrize("family", FAMILIES)
def test_joining_a_pruner_and_leaving_it(family: str) -> None:
    """What joins sees the pruned sequence and changes nothing; afterwards the handle is the user's again."""
    target, batch = build(family)[0], one(family)
    target.generate(**batch, **GREEDY)  # transformers' own hooks come now
    clean = snapshot(target)
    handle = vtokens.attach(target, "fastv(keep=0.3, layer=1)")
    logits, tokens, seen = target(**batch).logits, target.generate(**batch, **GREEDY), Watch()
    with handle.joined(seen) as inside:
        assert inside is handle
        assert handle.strategy == "fastv(keep=0.3, layer=1)"
        assert torch.equal(target.generate(**batch, **GREEDY), tokens)
        report = handle.report()
    length = batch["input_ids"].shape[1]
    steps = tokens.shape[1] - length
    assert seen.keys == [len(report.samples[0].positions[2]) + step for step in range(steps)]
    assert seen.keys[0] < length
    assert str(handle.report()) == str(report)
    assert torch.equal(target(**batch).logits, logits)
    assert len(seen.keys) == steps
    handle.detach()
    assert snapshot(target) == clean


def test_joining_nothing() -> None:
    target, batch = build("llava")[0], one("llava")
    logits, seen = target(**batch).logits, Watch()
    clean = snapshot(target)
    with joined(target, seen) as handle:
        assert vtokens.attachment(target) is None  # what joins for a while is nobody's attachment
        assert handle.strategies == ()
        assert torch.equal(target(**batch).logits, logits)
    assert seen.keys == [batch["input_ids"].shape[1]]
    assert snapshot(target) == clean


def test_nested_and_detached_inside() -> None:
    target, batch = build("llava")[0], one("llava")
    target(**batch)
    clean = snapshot(target)
    outer, inner, handle = Watch(), Watch(), vtokens.attach(target, "cls(keep=0.5)")
    with handle.joined(outer):
        with handle.joined(inner):
            target(**batch)
        target(**batch)
        with handle.running(inner):
            target(**batch)
        handle.detach()
        assert not handle.attached
    assert len(outer.keys) == 2
    assert len(inner.keys) == 2
    assert inner.keys[0] < inner.keys[1]  # the second time nothing was pruned
    assert snapshot(target) == clean
    with pytest.raises(RuntimeError, match="detached"), handle.joined(inner):
        pass
    assert snapshot(target) == clean


@pytest.mark.parametrize("attached", [True, False])
def test_errors_leave_the_attachment_as_it_was(attached: bool) -> None:
    target, batch = build("llava")[0], one("llava")
    target(**batch)
    clean = snapshot(target)
    handle = vtokens.attach(target, "cls(keep=0.5)") if attached else None
    logits = target(**batch).logits
    with pytest.raises(IndexError), joined(target, Astray()):
        pass
    with pytest.raises(ZeroDivisionError), joined(target, Watch()):
        1 / 0  # noqa: B018
    assert vtokens.attachment(target) is handle
    assert torch.equal(target(**batch).logits, logits)
    vtokens.detach(target)
    assert snapshot(target) == clean
