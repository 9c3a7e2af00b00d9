"""`vtokens.load`: the embedded model, folders, saved strategies, and what it refuses."""

import pytest
import torch
from transformers import LlavaForConditionalGeneration, LlavaProcessor

import vtokens
from tests.families import build
from vtokens import scenes


def test_the_embedded_model_is_the_genuine_class_with_the_strategy_attached():
    model, processor = vtokens.load("scenes-llava", strategy="todre", keep=0.1)
    assert type(model) is LlavaForConditionalGeneration
    assert type(processor) is LlavaProcessor
    assert vtokens.attachment(model).strategy == "todre"  # 0.1 is its default
    example = scenes.examples("test", n=1)[0]
    batch = processor(images=example.image, text=scenes.prompt(processor, example.question), return_tensors="pt")
    model.generate(**batch, max_new_tokens=2)
    assert vtokens.attachment(model).report().samples[0].visual_tokens[0] == 14  # round(144 * 0.1)


def test_arguments_go_to_from_pretrained():
    model, _ = vtokens.load("scenes-llava", dtype=torch.bfloat16, attn_implementation="eager")
    assert model.dtype == torch.bfloat16
    assert model.config._attn_implementation == "eager"
    assert vtokens.attachment(model) is None


def test_a_folder_brings_its_saved_strategy_along(tmp_path):
    model, processor = build("llava")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert vtokens.attachment(vtokens.load(tmp_path)[0]) is None
    vtokens.save_pretrained("cls(keep=0.5)+fastv(keep=0.5, layer=3)", tmp_path)
    assert vtokens.attachment(vtokens.load(str(tmp_path))[0]).strategy == "cls(keep=0.5)+fastv(layer=3)"
    vtokens.save_pretrained("fastv(keep=0.5, layer=3)", tmp_path)
    assert vtokens.attachment(vtokens.load(tmp_path, keep=0.25)[0]).strategy == "fastv(keep=0.25, layer=3)"
    assert vtokens.attachment(vtokens.load(tmp_path, strategy="none")[0]) is None
    assert vtokens.attachment(vtokens.load(tmp_path, strategy="uniform")[0]).strategy == "uniform"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"strategy": "fastw"}, "Did you mean 'fastv'"),
        ({"strategy": "fastv", "keep": 0}, "keep=0 keeps nothing"),
        ({"strategy": "fastv(layer=8)"}, "layer=8 is out of range for a model with 8 layers"),
        ({"strategy": "cls+fastv", "keep": 0.5}, "ambiguous: cls, fastv"),
        ({"keep": 0.5}, "keep=0.5 has no strategy to take it"),
    ],
)
def test_bad_settings(arguments, says):
    with pytest.raises(ValueError, match="(?s)" + says.replace("(", r"\(")):
        vtokens.load("scenes-llava", **arguments)


def test_unknown_models():
    with pytest.raises(ValueError, match="Did you mean 'scenes-llava'"):
        vtokens.load("scenes-lava")
    with pytest.raises(OSError, match="no-such/model"):
        vtokens.load("no-such/model")


def test_a_family_without_an_adapter_is_named(tmp_path):
    from transformers import Blip2Config

    Blip2Config().save_pretrained(tmp_path)
    with pytest.raises(
        ValueError,
        match=r"blip-2.*supported are .*llava, llava_next, .*qwen3_vl.*, and docs/add",
    ):
        vtokens.load(tmp_path, strategy="cls")
