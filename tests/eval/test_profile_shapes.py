"""Presets are the published shapes, resizing keeps what matters of them, and synthetic prompts fit every family."""

import json
from time import monotonic

import pytest
import torch
from huggingface_hub import constants
from transformers import AutoConfig, AutoModelForImageTextToText

import vtokens
from tests.families import FAMILIES, build
from vtokens.adapters import adapter_for
from vtokens.eval.presets import preset, presets
from vtokens.eval.shapes import locate, random_model, read_config, resize, supported
from vtokens.eval.synthetic import default_size, noise, prompts


def on_meta(config):
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config)


# Billions of parameters as the models' pages give them, and visual tokens of the default picture. That of LLaVA-NeXT on
# Mistral is a sum: 7.24 of Mistral-7B, 0.30 of CLIP's ViT-L/14 for 336 pixels, 0.02 of the projector: 7.57.
PUBLISHED = {
    "llava-1.5-7b": (7.06, 576),
    "llava-1.5-13b": (13.35, 576),
    "llava-next-7b": (7.06, 2880),
    "llava-next-mistral-7b": (7.57, 2880),
    "internvl3-8b": (7.94, 256),  # of a tile
    "llava-onevision-7b": (8.03, 729 + 54 * 54),
    "qwen2.5-vl-3b": (3.75, 576),
    "qwen2.5-vl-7b": (8.29, 576),
    "qwen3-vl-8b": (8.77, 576),
}


SMALL = {"qwen2_vl": (168, 140), "qwen2_5_vl": (168, 140), "qwen3_vl": (168, 140)}
"""A picture for tests where any size goes and the default one would take long."""


@pytest.mark.parametrize("name", presets())
def test_presets_have_the_published_size(name):
    assert round(on_meta(preset(name)).num_parameters() / 1e9, 2) == PUBLISHED[name][0]


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets_have_the_published_number_of_visual_tokens(name):
    config = preset(name)
    adapter = adapter_for(on_meta(config))
    given = noise(config, 1, default_size(config), torch.Generator())
    assert adapter.pictures("image", given)[0].tokens == PUBLISHED[name][1]


@pytest.mark.parametrize("name", presets())
def test_a_resized_model_keeps_heads_and_pictures(name):
    """Widths and heads shrink together; patches, crops, merging and the vocabulary stay."""
    config = preset(name)
    small, changed = resize(config, 2, 4)
    text, before = small.get_text_config(), config.get_text_config()
    assert changed == f"widths / 2, 4 of {before.num_hidden_layers} layers"
    assert text.num_hidden_layers == 4
    assert text.hidden_size * 2 == before.hidden_size
    assert text.hidden_size // text.num_attention_heads == before.hidden_size // before.num_attention_heads
    assert text.num_attention_heads // text.num_key_value_heads == (
        before.num_attention_heads // before.num_key_value_heads
    )
    assert text.vocab_size == before.vocab_size
    assert default_size(small) == default_size(config)
    assert small.vision_config.patch_size == config.vision_config.patch_size
    assert config.to_dict() == preset(name).to_dict()  # the one given is left alone
    on_meta(small)
    if small.model_type != "qwen3_vl":
        adapter = adapter_for(on_meta(small))
        depth = len(adapter_for(on_meta(config)).tower.attentions)
        assert len(adapter.tower.attentions) == max(2, round(depth * 4 / before.num_hidden_layers))
        assert 0 <= adapter.tower.feature_block < len(adapter.tower.attentions)


def test_nothing_resized_is_nothing_changed():
    config = preset("qwen2.5-vl-7b")
    same, changed = resize(config)
    assert changed == ""
    assert same.to_dict() == config.to_dict()


@pytest.mark.parametrize(
    ("scale", "layers", "says"),
    [
        (3, None, r"scale=3 does not divide the heads of this model: \[1, 2, 4\] are allowed"),
        (0, None, "scale=0 does not divide"),
        (1, 29, "layers=29 is not possible: this decoder has 28, so 1 to 28 is allowed"),
        (1, 0, "layers=0 is not possible"),
    ],
)
def test_sizes_that_cannot_be(scale, layers, says):
    with pytest.raises(ValueError, match=says):
        resize(preset("qwen2.5-vl-7b"), scale, layers)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pictures", [1, 2])
@torch.no_grad()
def test_synthetic_prompts_are_what_the_model_takes(family, pictures):
    """Ragged and left-padded; the layout finds the pictures of each prompt, with text on both sides."""
    model, _ = build(family)
    batch = prompts(adapter_for(model), (10, 4, 7), SMALL.get(family), pictures)
    with vtokens.attach(model, "none") as handle:
        model.generate(**batch, max_new_tokens=2)
        samples = handle.report().samples
    block = batch["input_ids"].shape[1] - 10
    assert [len(sample.pictures) for sample in samples] == [pictures] * 3
    assert [len(sample.positions[0]) for sample in samples] == [block + 10, block + 4, block + 7]
    assert batch["attention_mask"].sum(1).tolist() == [block + 10, block + 4, block + 7]
    place = (batch["input_ids"][0] == adapter_for(model).placeholder_ids["image"]).nonzero()
    marks = 1 if family.startswith("qwen") else 0
    assert (place.min(), place.max()) == (5 + marks, block + 4 - marks)
    assert len(place) == block - 2 * marks * pictures


@torch.no_grad()
def test_a_wide_picture_is_a_wide_grid():
    model, _ = build("qwen2_5_vl")
    adapter = adapter_for(model)
    batch = prompts(adapter, (6,), (5 * 28, 3 * 28))
    assert batch["image_grid_thw"].tolist() == [[1, 6, 10]]
    model.generate(**batch, max_new_tokens=1)


@pytest.mark.parametrize(
    ("family", "text", "size", "says"),
    [
        ("llava", (6,), (112, 56), "a picture of 112x56 does not fit this model: it sees 56x56 only"),
        ("qwen2_vl", (6,), (100, 56), "its sides are multiples of 28"),
        ("qwen2_vl", (6,), (0, 56), "does not fit"),
        ("llava", (), None, "a batch of 0 prompts is not possible"),
        ("llava", (6, 1), None, "1 text tokens are too few"),
    ],
)
def test_prompts_that_cannot_be(family, text, size, says):
    with pytest.raises(ValueError, match=says):
        prompts(adapter_for(build(family)[0]), text, size)


def test_random_weights_are_the_same_each_time():
    config, _ = resize(preset("llava-1.5-7b"), 16, 1)
    first, second = random_model(config), random_model(config)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert first.generation_config.eos_token_id is None


def test_configurations_are_read_from_files_and_folders(tmp_path):
    config, _ = resize(preset("qwen2.5-vl-3b"), 2, 3)
    config.save_pretrained(tmp_path)
    for source in (tmp_path, tmp_path / "config.json"):
        assert read_config(str(source)).to_diff_dict() == config.to_diff_dict()


def test_names_that_stand_for_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"Did you mean 'llava-1\.5-7b'"):
        preset("llava-15-7b")
    with pytest.raises(ValueError, match="Did you mean 'scenes-llava'"):
        locate("scenes-lava")
    with pytest.raises(ValueError, match=r"--preset qwen2\.5-vl-3b"):
        locate("qwen2.5-vl-3b")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="no configuration of a model that transformers knows at"):
        read_config(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match=r"family 'bert', for which there is no adapter yet: supported are .*llava"):
        read_config(str(tmp_path))
    with pytest.raises(ValueError, match="mine is of the family 'blip-2', for which there is no adapter yet"):
        supported(AutoConfig.for_model("blip-2"), "mine")


def test_a_hub_id_out_of_reach_is_told_at_once(monkeypatch):
    """One try without retries: transformers alone would take half a minute."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # the discard port: nobody listens
    begin = monotonic()
    with pytest.raises(OSError, match=r"nobody/nothing.*cannot be reached"):
        read_config("nobody/nothing")
    assert monotonic() - begin < 6


def test_a_hub_id_that_is_not_cached_is_told_when_offline(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"no configuration .* at 'nobody/nothing'"):
        read_config("nobody/nothing")
