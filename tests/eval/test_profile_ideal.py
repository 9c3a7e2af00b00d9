"""The ideal does the work of the kept tokens and no more: the same answers where nothing is dropped, the same FLOPs
as the formula gives where something is."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import vtokens
from tests.families import FAMILIES, build
from vtokens.adapters import adapter_for
from vtokens.core.costs import call_flops
from vtokens.eval.ideal import Ideal
from vtokens.eval.synthetic import prompts

SPECS = ["cls(keep=0.3)", "fastv(keep=0.25, layer=2)", "cls(keep=0.5)+fastv(keep=4, layer=1)"]
LENGTH = {"min_new_tokens": 5, "max_new_tokens": 5, "do_sample": False}


def ideal_of(model, batch, strategy):
    """The ideal of `strategy` on `batch`, and the report it follows."""
    with vtokens.attach(model, strategy) as handle:
        model.generate(**batch, max_new_tokens=1)
        report = handle.report()
    return Ideal(model, batch, report), report


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_keeping_everything_is_the_model_itself(family):
    """The same tokens from a ragged batch; M-RoPE models number a prompt given as embeddings as text, so not theirs."""
    model, _ = build(family)
    batch = prompts(adapter_for(model), (9, 5))
    ideal, report = ideal_of(model, batch, "none")
    assert report.flops == report.flops_full
    answers, length = ideal.generate(**LENGTH), batch["input_ids"].shape[1]
    assert answers.shape == (2, 5)
    if not family.startswith("qwen"):
        assert answers.equal(model.generate(**batch, **LENGTH)[:, length:])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("strategy", SPECS)
@torch.no_grad()
def test_the_ideal_does_the_work_of_the_formula(family, strategy):
    model, _ = build(family)
    adapter = adapter_for(model)
    batch = prompts(adapter, (12, 12), (168, 140) if family.startswith("qwen") else None)
    ideal, report = ideal_of(model, batch, strategy)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        ideal.generate(**LENGTH)
    seen = [len(positions) for positions in report.samples[0].positions]
    ours = call_flops(adapter.language_model.config, adapter.encoding("image", batch), seen, 5, batch=2)
    assert counter.get_total_flops() == pytest.approx(ours.total, rel=1e-3)


@torch.no_grad()
def test_the_ideal_is_fed_the_features_that_were_kept():
    """`cls` keeps these embeddings in front of the decoder; the ideal must hand in the same, newlines included."""
    model, _ = build("llava_next")
    batch, seen = prompts(adapter_for(model), (6, 10)), []
    decoder = model.model.language_model

    hook = decoder.layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    ideal, _ = ideal_of(model, batch, "cls(keep=7)")
    pruned = seen.pop()
    ideal.generate(max_new_tokens=1)
    hook.remove()
    assert seen[0].shape == pruned.shape
    assert torch.equal(seen[0][1], pruned[1])
    assert torch.equal(seen[0][0, 4:], pruned[0, 4:])  # the shorter row: the padding in front is nobody's


@torch.no_grad()
def test_the_model_is_as_it_was_even_after_an_error():
    model, _ = build("llava")
    batch, decoder = prompts(adapter_for(model), (6,)), model.model.language_model
    ideal, _ = ideal_of(model, batch, "fastv(keep=2, layer=1)")
    ideal.generate(max_new_tokens=1)
    assert model.model.language_model is decoder
    with pytest.raises(ValueError, match="no_such_option"):
        ideal.generate(no_such_option=1)
    assert model.model.language_model is decoder
