"""Decoders other than the families' own: those that are built alike are right, all others are refused at attach."""

from __future__ import annotations

import gc
import weakref
from contextlib import nullcontext
from typing import Any

import pytest
import torch

import vtokens
from tests.engine.masked import dropped_keys, masking
from tests.engine.state import snapshot
from tests.engine.unmerged import before_and_with, copies, gone, unmerged
from tests.families import build, image, inputs
from tests.limits import close_pass
from vtokens.adapters import adapter_for
from vtokens.adapters.decoder import check_decoder

pytestmark = pytest.mark.usefixtures("no_grad")
DYMU = "dymu(thresholds=(0.3, 0.3, 0.3))"


def around(decoder: str, attention: str = "sdpa") -> tuple[Any, dict[str, Any]]:
    """LLaVA around a small decoder of that kind, and a sample."""
    more = {"num_experts": 2, "num_local_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 32}
    more |= {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_chunk_size": 16}
    # Gemma 3 has layers of both kinds, each with its own angles; its window cuts nothing here.
    more |= {"layer_types": ["sliding_attention", "full_attention"] * 2} if decoder == "gemma3_text" else {}
    # Scores of Gemma 2 are capped, which eager attention alone knows of.
    more |= {"attn_logit_softcapping": 1.5, "query_pre_attn_scalar": 16} if decoder == "gemma2" else {}
    attention = "eager" if decoder == "gemma2" else attention
    text = {"model_type": decoder, "num_key_value_heads": 2, "head_dim": 16, "intermediate_size_mlp": 128, **more}
    model, processor = build("llava", attn_implementation=attention, text_config=text)
    return model, dict(inputs(processor, ["what is <image> this thing?"], [[image(84, 84, seed=1)]]))


@pytest.mark.parametrize(
    ("decoder", "attention", "says"),
    [
        ("gpt_neox", "sdpa", "a GPTNeoXModel as decoder is not supported: layer 0, a GPTNeoXLayer, has no `self_attn`"),
        ("qwen3_5_text", "sdpa", "a Qwen3_5TextModel .* names layers of linear_attention"),
        ("llama4_text", "sdpa", "a Llama4TextModel .* names layers of chunked_attention"),
        ("falcon_h1", "sdpa", "a FalconH1Model as decoder is not supported"),
        ("gpt_oss", "eager", "a GptOssModel .* its GptOssAttention has learnt sinks"),
    ],
)
def test_what_is_built_otherwise_is_refused_at_attach(decoder: str, attention: str, says: str) -> None:
    """The model works by itself, before and after."""
    model, batch = around(decoder, attention)
    expected, before = model(**batch).logits, snapshot(model)
    for spec in ("none", "uniform(keep=0.5)", "fastv(keep=0.5, layer=1)", "vhr", "vcd", DYMU):
        with pytest.raises(ValueError, match=says):
            vtokens.attach(model, spec)
    assert snapshot(model) == before
    assert torch.equal(model(**batch).logits, expected)


def test_a_cache_layer_that_is_not_the_layers_own_is_refused() -> None:
    model = around("llama")[0]
    layers = model.model.language_model.layers
    layers[1].self_attn.layer_idx = 0
    with pytest.raises(ValueError, match=r"a LlamaModel .* layer 1 keeps its keys in layer 0 of the cache"):
        vtokens.attach(model, "uniform(keep=0.5)")


@pytest.mark.parametrize("decoder", ["mixtral", "phi", "cohere", "smollm3", "olmo2", "gemma3_text", "gemma2"])
@pytest.mark.parametrize("spec", ["uniform(keep=0.5)", "fastv(keep=0.5, layer=2)"])
def test_what_is_built_alike_prunes_as_masked(decoder: str, spec: str) -> None:
    """Experts, rotation of a part of each head, parallel blocks, layers without rotation, other norms, angles, caps."""
    (target, batch), (reference, _) = around(decoder), around(decoder, "eager")
    with vtokens.attach(target, spec) as handle:
        got, report = target(**batch).logits, handle.report()
    with masking(reference, dropped_keys(report, batch["attention_mask"])):
        expected = reference(**batch).logits
    size = expected.abs().max()
    close_pass(got / size, expected / size)
    if "fastv" in spec:  # and chooses by the attention that the model reports
        seen = reference(**batch, output_attentions=True).attentions[1][0].mean(0)[-1]
        places = (batch["input_ids"][0] == target.config.image_token_id).nonzero()[:, 0]
        best = places[seen[places].topk(len(places) // 2).indices]
        assert set(best.tolist()) <= set(report.samples[0].positions[2].tolist())


@pytest.mark.parametrize("decoder", ["phi3", "qwen3", "olmo2", "granite", "gemma3_text"])
def test_unmerging_where_rotation_comes_last(decoder: str) -> None:
    (target, batch), (reference, _) = around(decoder), around(decoder, "eager")
    before, report, features = before_and_with(target, DYMU, batch)
    numbers = copies(target, batch, features, before)
    with vtokens.attach(target, DYMU):
        got = target(**batch).logits
    with unmerged(reference, numbers, gone(report, numbers, batch["attention_mask"]), [(batch, features)]):
        expected = reference(**batch).logits
    size = expected.abs().max()
    close_pass(got / size, expected / size)


@pytest.mark.parametrize("default", [torch.bfloat16, "meta"])
def test_defaults_of_the_caller_do_not_matter(default: Any) -> None:
    """As `torch.set_default_device("cuda")` in a script: what was made before, and is right, is found right."""
    model, batch = around("llama")
    try:
        torch.set_default_dtype(torch.float32 if isinstance(default, str) else default)
        # Not set and set back: a default device of None breaks torch 2.9 for the rest of the process.
        with torch.device(default) if isinstance(default, str) else nullcontext():
            handle = vtokens.attach(model, DYMU)
    finally:
        torch.set_default_dtype(torch.float32)
    with handle:
        assert model(**batch).logits.isfinite().all()


@pytest.mark.parametrize("decoder", ["smollm3", "hunyuan_v1_dense", "diffllama", "phi", "cohere"])
def test_unmerging_elsewhere_is_refused(decoder: str) -> None:
    """Layers that turn nothing, norms behind the rotation, paired heads, parts of heads, neighbours turned together."""
    model, batch = around(decoder)
    with pytest.raises(ValueError, match=r"layer \d of a \w+ \(\w*Attention\) does not: use dymu\(unmerge=False\)"):
        vtokens.attach(model, DYMU)
    with vtokens.attach(model, "dymu(thresholds=(0.3,), unmerge=False)"):
        assert model(**batch).logits.isfinite().all()


def test_models_that_are_gone_leave_no_classes_behind() -> None:
    """A config class of its own each, as code from the hub brings; each is taken, the first time and the second."""
    model, kinds = build("llava")[0], []
    adapter = adapter_for(model)
    config = adapter.language_model.config
    plain = type(config)
    for number in range(200):
        config.__class__ = type(f"Config{number}", (plain,), {})
        kinds.append(weakref.ref(type(config)))
        check_decoder(adapter)
        check_decoder(adapter)
    config.__class__ = plain
    gc.collect()
    assert sum(kind() is not None for kind in kinds) <= 100
