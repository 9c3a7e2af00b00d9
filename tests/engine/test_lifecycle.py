"""Attaching and detaching leave nothing behind, and handles know what they are attached to."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import vtokens
from tests.engine.cases import model
from tests.engine.compare import GREEDY, SPEC, one
from tests.engine.state import Astray, snapshot
from tests.families import BROKEN, FAMILIES, build
from vtokens.core.compat import returned_cache

pytestmark = pytest.mark.usefixtures("no_grad")
ALL = "random(keep=0.9)+uniform(keep=0.9)+cls(keep=0.8)+todre(keep=0.8)+fastv(keep=0.5, layer=2)"


@pytest.mark.parametrize(("family", "turns"), [(name, 100 if number else 1000) for number, name in enumerate(FAMILIES)])
def test_a_thousand_times(family: str, turns: int) -> None:
    """Attach and detach 1,000 times, or 100: the same bits, no hook, no attribute, the same configs."""
    target, batch = build(family)[0], one(family)
    logits, tokens = target(**batch).logits, target.generate(**batch, **GREEDY)  # transformers' own hooks come now
    before = snapshot(target)
    for turn in range(turns):
        with vtokens.attach(target, ALL):
            if turn % (turns // 5) == 0:
                assert not torch.equal(target(**batch).logits, logits)
                target.generate(**batch, **GREEDY)
    assert snapshot(target) == before
    assert torch.equal(target(**batch).logits, logits)
    assert torch.equal(target.generate(**batch, **GREEDY), tokens)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_attached_model_differs_from_a_detached_one(family: str) -> None:
    """The snapshot of the test above really sees what attaching does."""
    target = build(family)[0]
    before = snapshot(target)
    with vtokens.attach(target, SPEC):
        during = snapshot(target)
    changed = {key for name in before for key in before[name] if before[name][key] != during[name][key]}
    assert changed == {"attributes", "hooks", "methods", "config"}
    assert snapshot(target) == before


@pytest.mark.parametrize("family", [one for one in ("llama4", "llava") if one not in BROKEN])
def test_a_copy_where_hooks_stand_on_the_model_itself(family: str) -> None:
    """As on Llama 4, and on a model without an output layer: what is copied prunes, and can be detached by itself."""
    target, batch = build(family)[0], one(family)
    target = target if family == "llama4" else target.model
    plain = target(**batch)[0]
    with vtokens.attach(target, SPEC):
        pruned, twin = target(**batch)[0], copy.deepcopy(target)
    assert torch.equal(twin(**batch)[0], pruned)
    assert torch.equal(target(**batch)[0], plain)
    assert not torch.equal(pruned, plain)
    vtokens.detach(twin)
    assert torch.equal(twin(**batch)[0], plain)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("fastv(layer=4)", r"layer=4 is out of range for a model with 4 layers: 1 to 3 is allowed, the nearest is 3"),
        ("cls+fastv(layer=-1)", r"layer=-1 is out of range .* the nearest is 1"),
        ("cls(layers=(9,))", r"layers=9 is out of range .* -4 to 3 is allowed"),
        (Astray(), "list index out of range|index 99"),
    ],
    ids=["layer", "second layer", "tower block", "while installing"],
)
def test_a_failed_attach_leaves_nothing(spec: Any, reason: str) -> None:
    target = build("llava")[0]
    before = snapshot(target)
    with pytest.raises((ValueError, IndexError), match=reason):
        vtokens.attach(target, spec)
    assert snapshot(target) == before
    assert vtokens.attachment(target) is None
    with vtokens.attach(target, SPEC) as handle:
        assert vtokens.attachment(target) is handle


def test_a_second_attachment_is_refused() -> None:
    """Through whichever part of the model it comes, with the name of the first and the way out."""
    target = model("llava", "pruned")
    with vtokens.attach(target, "cls", keep=0.5) as handle:
        for part in (target, target.model):
            with pytest.raises(
                ValueError, match=r"already has 'cls\(keep=0.5\)' attached: detach\(\) it first"
            ) as error:
                vtokens.attach(part, "fastv")
            assert "'cls(keep=0.5)+fastv'" in str(error.value)
        assert handle.attached
        assert vtokens.attachment(target.model) is handle


def test_handles() -> None:
    """`attachment`, `detach`, detaching twice, an old handle beside a new one, leaving by an exception."""
    target = model("qwen2_vl", "pruned")
    assert vtokens.attachment(target) is None
    vtokens.detach(target)  # nothing there: no harm
    first = vtokens.attach(target, "fastv", keep=0.5, layer=1)
    assert vtokens.attachment(target) is first
    assert (first.attached, first.strategy) == (True, "fastv(layer=1)")
    assert "attached to a Qwen2VLForConditionalGeneration" in repr(first)
    with pytest.raises(RuntimeError, match="call it first"):
        first.report()
    target(**one("qwen2_vl"))
    vtokens.detach(target)
    assert (first.attached, vtokens.attachment(target)) == (False, None)
    assert "detached from" in repr(first)
    assert first.report().samples[0].visual_tokens[0] > first.report().samples[0].visual_tokens[1]
    second = vtokens.attach(target, "cls", keep=0.5)
    first.detach()  # its time is over
    assert second.attached
    assert returned_cache(target(**one("qwen2_vl"), use_cache=True)).get_seq_length() > 0
    assert second.report().samples[0].visual_tokens[0] < first.report().samples[0].visual_tokens[0]
    second.detach()
    second.detach()
    with pytest.raises(ZeroDivisionError), vtokens.attach(target, "cls"):
        raise ZeroDivisionError
    assert vtokens.attachment(target) is None
