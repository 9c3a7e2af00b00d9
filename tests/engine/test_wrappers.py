"""Models inside wrappers, and copies of attached models: another process, a deep copy, a pickle."""

from __future__ import annotations

import copy
import importlib.util
import io
import multiprocessing
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vtokens
from tests.engine.compare import GREEDY, one
from tests.engine.state import snapshot
from tests.families import FAMILIES, build
from tests.families.processors import tokenizer
from vtokens import HallucinationFilter
from vtokens.engine.attach import joined
from vtokens.strategies import parse

SPEC = "cls(keep=0.5)+vhr+pai(beta=0)"


# What peft asks of a model is deprecated in this transformers.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.usefixtures("no_grad"),
]


def answers(model: Any, family: str = "llava") -> list[Tensor]:
    return [model(**one(family)).logits, model.generate(**one(family), **GREEDY)]


def same(found: list[Tensor], expected: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def peft_model(model: Any, **options: Any) -> Any:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    return peft.get_peft_model(model, peft.LoraConfig(**options, init_lora_weights=False)).eval()


WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "compiled": lambda model: torch.compile(model, backend="eager"),
    "data parallel": nn.DataParallel,
    "both": lambda model: nn.DataParallel(torch.compile(model, backend="eager")),
    "peft": partial(peft_model, target_modules=["q_proj", "lm_head"]),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_the_model_inside_a_wrapper_is_taken(wrapper: str) -> None:
    """Attached through the wrapper as without it; every function finds it there."""
    target = build("llava")[0]
    wrapped = WRAPPERS[wrapper](target)
    plain = answers(target)
    clean = snapshot(target)  # transformers' own hooks have come now
    with vtokens.attach(target, SPEC):
        expected = answers(target)
    assert not torch.equal(expected[0], plain[0])
    handle = vtokens.attach(wrapped, SPEC)
    assert vtokens.attachment(wrapped) is vtokens.attachment(target) is handle
    assert same(answers(target), expected)
    if wrapper in ("data parallel", "peft"):
        assert torch.equal(wrapped(**one("llava")).logits, expected[0])
    if wrapper == "peft":
        assert torch.equal(wrapped.generate(**one("llava"), **GREEDY), expected[1])
        assert not torch.equal(wrapped(**one("llava"), logits_to_keep=1).logits, plain[0][:, -1:])
    vtokens.detach(wrapped)
    assert vtokens.attachment(wrapped) is None
    assert snapshot(target) == clean
    hf = HallucinationFilter(wrapped, tokenizer("llava"))
    assert hf.model is target
    assert hf.setting().model == HallucinationFilter(target, tokenizer("llava")).setting().model


@pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft is not installed")
def test_adapters_of_peft_come_and_go() -> None:
    """Put on, merged, unmerged and switched off while something is attached, as if it were attached afterwards."""
    late, early = build("llava")[0], build("llava")[0]
    with vtokens.attach(late, SPEC) as handle:
        before = answers(late)
        wrapped = [peft_model(model, target_modules=["q_proj", "v_proj", "lm_head", "fc1"]) for model in (late, early)]
        for change in ("", "disable_adapter_layers", "enable_adapter_layers", "merge_adapter", "unmerge_adapter"):
            for one_of in wrapped:
                getattr(one_of.base_model, change or "eval")()
            got = answers(late)
            with vtokens.attach(wrapped[1], SPEC):
                assert same(got, answers(early)), change
            assert same(got, before) == (change == "disable_adapter_layers"), change
        assert vtokens.attachment(wrapped[0]) is handle
        # Merging and taking it back rounds.
        torch.testing.assert_close(answers(wrapped[0].unload())[0], before[0], rtol=0, atol=1e-3)


@pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft is not installed")
def test_prompt_tuning_is_refused() -> None:
    import peft

    wrapped = peft.get_peft_model(
        build("llava")[0],
        peft.PromptTuningConfig(
            task_type="CAUSAL_LM", num_virtual_tokens=2, token_dim=64, num_layers=4, num_attention_heads=4
        ),
    )
    with pytest.raises(ValueError, match=r"PROMPT_TUNING feeds tokens of its own .* as LoRA"):
        vtokens.attach(wrapped, SPEC)


def test_other_modules_are_named() -> None:
    class Trainer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vlm = build("llava")[0]

    for use in (partial(vtokens.attach, strategy=SPEC), vtokens.detach, vtokens.attachment):
        with pytest.raises(TypeError, match=r"Trainer is not a transformers model, but holds one: give its \.vlm"):
            use(Trainer())
    with pytest.raises(TypeError, match="Linear is not a transformers model"):
        vtokens.attach(nn.Linear(2, 2), SPEC)  # type: ignore[arg-type]


def test_copies_on_several_devices_are_refused() -> None:
    """What DataParallel runs on each device; on one it runs the model itself."""
    target = build("llava")[0]
    with vtokens.attach(target, SPEC):
        with pytest.raises(RuntimeError, match=r"DataParallel runs copies .* \(DistributedDataParallel\)"):
            target._replicate_for_data_parallel()(**one("llava"))
        target(**one("llava"))
    with vtokens.attach(target, "none"):
        target._replicate_for_data_parallel()(**one("llava"))


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_deep_copy_is_attached_by_itself(family: str, inside: bool) -> None:
    """It answers as the original, and neither notices what happens to the other; of a block it has nothing."""
    target = build(family)[0]
    plain = answers(target, family)
    clean = snapshot(target)
    handle = vtokens.attach(target, SPEC)
    expected = answers(target, family)
    with handle.joined(*(parse("fastv(keep=0.3, layer=1)") if inside else ())):
        twin = copy.deepcopy(target)
        assert same(answers(twin, family), expected)
    own = vtokens.attachment(twin)
    assert own is not None
    assert own is not handle
    handle.detach()
    assert snapshot(target) == clean
    assert same(answers(twin, family), expected)
    twin.lm_head.weight.mul_(2)
    assert same(answers(target, family), plain)
    own.detach()
    assert "vtokens" not in repr(snapshot(twin))
    torch.testing.assert_close(answers(twin, family)[0], 2 * plain[0])


@pytest.mark.parametrize("save", [pickle.dumps, lambda model: torch.save(model, io.BytesIO())])
def test_pickling_inside_a_block_is_refused(save: Callable[[Any], Any]) -> None:
    target = build("llava")[0]
    with joined(target), pytest.raises(TypeError, match=r"for a while.*leave the `with` block first"):
        save(target)
    save(target)


def test_a_pickled_model_has_an_attachment_of_its_own() -> None:
    target = build("llava")[0]
    with vtokens.attach(target, SPEC):
        twin = pickle.loads(pickle.dumps(target))
        expected = answers(target)
    assert same(answers(twin), expected)
    vtokens.detach(twin)
    assert "vtokens" not in repr(snapshot(twin))
    assert same(answers(twin), answers(target))


def test_the_weights_of_an_attached_model_are_saved() -> None:
    target = build("llava")[0]
    with vtokens.attach(target, SPEC):
        torch.save(target.state_dict(), io.BytesIO())


def _child(model: Any, pipe: Any) -> None:
    torch.set_num_threads(1)
    with torch.no_grad():
        attached = [found.tolist() for found in answers(model)]
        vtokens.detach(model)
        pipe.send((attached, [found.tolist() for found in answers(model)]))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_has_an_attachment_of_its_own() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        target = build("llava")[0]
        plain = answers(target)
        with vtokens.attach(target, SPEC):
            expected = answers(target)
            context = multiprocessing.get_context("fork")
            here, there = context.Pipe()
            child = context.Process(target=_child, args=(target, there))
            child.start()
            assert here.poll(60)
            attached, detached = here.recv()
            child.join()
            assert attached == [found.tolist() for found in expected]
            assert detached == [found.tolist() for found in plain]
            assert same(answers(target), expected)
    finally:
        torch.set_num_threads(threads)
