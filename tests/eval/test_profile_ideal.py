"""The ideal does the work of the kept tokens and no more: the same answers where nothing is dropped, the same FLOPs
as the formula gives where something is."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import vtokens
from tests.families import ALL, FAMILIES, STATEFUL, build, image, inputs
from tests.limits import close_pass
from vtokens.adapters import adapter_for
from vtokens.core.compat import returned_cache
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
    hooks = [layer._forward_pre_hooks for layer in decoder.layers]
    assert not any(hooks)
    with pytest.raises(ValueError, match="no_such_option"):
        ideal.generate(no_such_option=1)
    assert not any(hooks)


WITHIN, TWICE = "fastv(keep=0.5, layer=2)", "fastv(keep=0.6, layer=2)+fastv(keep=0.5, layer=3)"
AS_TEXT = ("llava", "smolvlm", "mistral3", "cohere2_vision", "llama4", "lfm2_vl", "minicpmv4_6")
"""Families that number a prompt given as embeddings as they number one of ids: tiles, windows, chunks, states."""


def ragged(processor):
    """Two prompts, the first one shorter and so padded, with pictures of which a share is different counts."""
    shown = [[image(60, 60, seed=5)], [image(84, 84, seed=3), image(60, 100, seed=4)]]
    return dict(inputs(processor, ["Is it <image>?", "Look: <image> what is <image> this, and that?"], shown))


@pytest.mark.parametrize("family", [name for name in AS_TEXT if name in (*ALL, *STATEFUL)])
@torch.no_grad()
def test_what_is_cut_inside_a_decoder_is_what_the_strategy_cuts(family):
    """Scores of every step of a padded batch are the attached model's own, in decoders of every kind of layer."""
    model, processor = build(family)
    batch, told = ragged(processor), {"output_logits": True, "return_dict_in_generate": True}
    with vtokens.attach(model, WITHIN if family in STATEFUL else TWICE) as handle:
        pruned = model.generate(**batch, **LENGTH, **told)
        report = handle.report()
    seen = [len(one) for one in report.samples[0].positions]
    assert seen[-1] < seen[0]
    found = Ideal(model, batch, report).generate(**LENGTH, **told)
    for ours, theirs in zip(found.logits, pruned.logits, strict=True):
        close_pass(ours, theirs)


@pytest.mark.parametrize("family", ["qwen3_vl_moe", "paddleocr_vl"])
@torch.no_grad()
def test_layers_hold_no_more_than_what_is_left(family):
    """Where experts hand on their routing, or prompts are numbered on three axes: keys in the cache tell."""
    model, processor = build(family)
    ideal, report = ideal_of(model, dict(inputs(processor, ["a <image> b"], [[image(84, 84, seed=1)]])), WITHIN)
    found = ideal.generate(max_new_tokens=1, return_dict_in_generate=True)
    held = [layer.keys.shape[2] for layer in returned_cache(found).layers]
    assert held == [len(one) for one in report.samples[0].positions]
    assert held[2] < held[0]


@pytest.mark.parametrize("family", ["gemma3", "paligemma"])
def test_a_class_that_takes_no_embeddings_is_refused(family):
    model, processor = build(family)
    batch = dict(inputs(processor, ["a <image> b"], [[image(84, 84, seed=1)]]))
    with pytest.raises(ValueError, match=r"`generate` of a \w+ takes no embeddings .* compare with the unpruned model"):
        ideal_of(model, batch, "uniform(keep=0.5)")


@torch.no_grad()
def test_pictures_that_see_what_comes_after_them():
    """Blocks of a shorter prompt are those of its own kinds; a decoder that cuts them is refused."""
    model, processor = build("molmo2")
    batch = dict(inputs(processor, ["what <image> is it?"], [[image(84, 84, seed=1)]]))
    ideal, _ = ideal_of(model, batch, "uniform(keep=1.0)")
    assert ideal.generate(**LENGTH).equal(model.generate(**batch, **LENGTH)[:, batch["input_ids"].shape[1] :])
    with pytest.raises(ValueError, match=r"pictures see what comes after them, and the ideal .* inside the decoder"):
        ideal_of(model, batch, WITHIN)


@torch.no_grad()
def test_windows_that_cut_are_counted_by_the_model_or_refused():
    """Tokens dropped in front leave a shorter prompt to a window; those dropped inside are refused where it cuts."""
    model, processor = build("cohere2_vision", text_config={"sliding_window": 8})
    batch = dict(inputs(processor, ["what <image> is it?"], [[image(84, 84, seed=1)]]))
    ideal, _ = ideal_of(model, batch, "uniform(keep=1.0)")
    assert ideal.generate(**LENGTH).equal(model.generate(**batch, **LENGTH)[:, batch["input_ids"].shape[1] :])
    with pytest.raises(ValueError, match="a window or a chunk of 8 cuts into the"):
        ideal_of(model, batch, WITHIN)
    fed = batch["input_ids"].shape[1]
    model, _ = build("cohere2_vision", text_config={"sliding_window": fed + 3})
    ideal, _ = ideal_of(model, batch, WITHIN)
    ideal.generate(max_new_tokens=2)
    with pytest.raises(ValueError, match=f"a window or a chunk of {fed + 3} cuts into the {fed + 5} positions"):
        ideal.generate(**LENGTH)
