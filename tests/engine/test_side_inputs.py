"""What a decoder is handed beside its states: refused unless it is known to stay right where tokens are dropped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

import vtokens
from tests.engine.cases import model
from tests.engine.state import snapshot
from tests.families import FAMILIES, image, inputs
from tests.limits import close_pass
from vtokens.adapters import adapter_class, register_adapter
from vtokens.adapters.qwen2_vl import Qwen2VL
from vtokens.core.compat import as_cache, returned_cache

pytestmark = pytest.mark.usefixtures("no_grad")
SPECS = ("uniform(keep=0.5)", "fastv(keep=0.5, layer=1)", "vhr", "contrast", "pai", "damro(k=3)")


@pytest.fixture
def deepstack() -> Iterator[Any]:
    """A tiny Qwen3-VL, and for the length of a test an adapter that has never heard of deepstack."""
    genuine = adapter_class("qwen3_vl")

    class Unaware(Qwen2VL):
        pass

    register_adapter("qwen3_vl")(Unaware)
    yield model("qwen3_vl", "plain"), Unaware
    register_adapter("qwen3_vl")(genuine)


def declare(adapter: Any) -> None:
    """Let it vouch for the arguments of deepstack."""
    names = frozenset(("visual_pos_masks", "deepstack_visual_embeds"))
    adapter.anatomy = replace(adapter.anatomy, side_inputs=names)


@pytest.mark.parametrize("spec", SPECS)
def test_an_argument_that_is_not_declared_is_refused_at_attach(deepstack: Any, spec: str) -> None:
    """Features that are added in deeper layers: neither cut by pruners nor handed to a second sequence."""
    target, _ = deepstack
    before = snapshot(target)
    says = r"a Qwen3VLTextModel as decoder takes 'visual_pos_masks', 'deepstack_visual_embeds'.*Anatomy.side_inputs"
    with pytest.raises(ValueError, match=says):
        vtokens.attach(target, spec)
    assert snapshot(target) == before


@pytest.mark.parametrize("spec", ["fastv(keep=9, layer=2)", "vcd(alpha=0, beta=0)", "avisc(alpha=0, beta=0)"])
def test_an_adapter_may_declare_them(deepstack: Any, spec: str) -> None:
    """What it vouches for goes along, to a second sequence too; here nothing is dropped, and no weight lies on that."""
    target, adapter = deepstack
    batch = dict(inputs("qwen2_vl", ["what is <image> this?"], [[image(84, 84, seed=0)]]))
    expected = target(**batch).logits
    declare(adapter)
    with vtokens.attach(target, spec):
        close_pass(target(**batch).logits, expected)


def test_a_second_sequence_gets_what_was_declared(deepstack: Any) -> None:
    """With the same picture in both, l + (l - l') is l: the branch has deepstack too."""
    target, adapter = deepstack
    batch = dict(inputs("qwen2_vl", ["what is <image> this?"], [[image(84, 84, seed=0)]]))
    expected = target(**batch).logits
    declare(adapter)
    with vtokens.attach(target, "contrast(alpha=1, beta=0, branch='uniform(keep=1.0)')"):
        close_pass(target(**batch).logits, expected, passes=2)


@pytest.mark.parametrize("family", FAMILIES)
def test_arguments_of_the_user(family: str) -> None:
    """Tensors under a name nobody declared, in whatever holds them; numbers, words, None, what losses read pass."""
    target = model(family, "pruned")
    batch = dict(inputs(family, ["what is <image> this?"], [[image(84, 84, seed=0)]]))
    mine = torch.zeros(batch["input_ids"].shape)
    wrong: list[dict[str, Any]] = [{"per_layer_inputs": mine}, {"mine": [mine]}, {"mine": {"deep": (None, mine)}}]
    if family.startswith("llava"):  # Qwen's tower takes no such word itself
        wrong.append({"is_causal": False})
    right: dict[str, Any] = {
        "per_layer_inputs": None, "mine": [], "deep": {"a": 1.0}, "word": "x", "num_items_in_batch": torch.tensor(3),
        "shift_labels": mine.long(), "return_dict": True, "token_type_ids": mine.long(),
    }  # fmt: skip
    for spec in SPECS:
        with vtokens.attach(target, spec):
            expected = target(**batch).logits
            for more in wrong:
                with pytest.raises(ValueError, match=next(iter(more))):
                    target(**batch, **more)
            torch.testing.assert_close(target(**batch, **right).logits, expected, rtol=0, atol=0)


def test_a_later_pass_of_both() -> None:
    """A step that the sequence and its negative prompt go together is refused alike."""
    target = model("llava", "pruned")
    batch = dict(inputs("llava", ["what is <image> this?"], [[image(84, 84, seed=0)]]))
    with vtokens.attach(target, "pai"):
        cache = returned_cache(target(**batch, use_cache=True))
        more = {"input_ids": torch.tensor([[50]]), **as_cache(target, cache), "use_cache": True}
        with pytest.raises(ValueError, match="'mine'"):
            target(**more, mine=torch.zeros(1, 1))
