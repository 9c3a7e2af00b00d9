"""The model that ships with the package: it answers, through the ordinary calls, as well as its card says."""

import dataclasses
import json

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, LlavaForConditionalGeneration

from vtokens.scenes import KINDS, answer, embedded_models, embedded_path, evaluate, examples
from vtokens.scenes.embedded import is_embedded

NAME = "scenes-llava"
# Well below what the card reports, so that a sample of thirty does not fail by chance.
LEAST = {
    "exist": 0.90,
    "where": 0.85,
    "at": 0.85,
    "colour_at": 0.85,
    "colour_of": 0.85,
    "shape_of": 0.85,
    "count_all": 0.75,
    "count_colour": 0.80,
    "count_shape": 0.80,
    "digit": 0.25,
    "caption": 0.65,
}


@pytest.fixture(scope="module")
def shipped():
    """The shipped model in float32 and its processor, loaded as any checkpoint is."""
    folder = embedded_path(NAME)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoProcessor.from_pretrained(folder)


def test_names():
    assert NAME in embedded_models()
    with pytest.raises(ValueError, match=r"unknown embedded model 'scene-llava'.*'scenes-llava'"):
        embedded_path("scene-llava")
    assert is_embedded(NAME)
    assert is_embedded(str(embedded_path(NAME)))
    assert not is_embedded("llava-hf/llava-1.5-7b-hf")


def test_folder_is_complete_and_small():
    folder = embedded_path(NAME)
    files = {p.name: p.stat().st_size for p in folder.iterdir()}
    assert files["model.safetensors"] <= 10_000_000
    assert {"config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja", "README.md"} <= set(files)
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pkl"))]
    assert json.loads((folder / "config.json").read_text())["model_type"] == "llava"


def test_accuracy_of_every_kind(shipped):
    found = evaluate(*shipped, examples("test", 30 * len(KINDS), seed=11), batch_size=66)
    assert set(found) == {*KINDS, "overall"}
    for kind, least in LEAST.items():
        assert found[kind].n == 30
        assert found[kind].share >= least, f"{kind}: {found[kind]}"


def test_answers_do_not_depend_on_the_batch(shipped):
    sample = examples("test", 12, seed=12)
    assert answer(*shipped, sample, batch_size=12) == answer(*shipped, sample, batch_size=1)


def test_short_answers_end_by_themselves(shipped):
    sample = examples("test", 20, seed=13, kinds=KINDS[:-1])
    assert answer(*shipped, sample, max_new_tokens=3) == answer(*shipped, sample)


def test_it_sees_missing_partners_but_no_others(shipped):
    share = {}
    for kind in ("pope_random", "pope_adversarial"):
        asked = [e for e in examples("partner-removed", 120, kinds=[kind]) if e.answer == "no"]
        said = answer(*shipped, asked, batch_size=60)
        assert set(said) <= {"yes", "no"}
        share[kind] = said.count("yes") / len(said)
    assert share["pope_random"] <= 0.06
    assert share["pope_adversarial"] >= 0.12


def test_it_needs_the_picture(shipped):
    """Without the right picture the answers fall to chance: the figures are not won by guessing."""
    model, processor = shipped
    sample = examples("test", 60, seed=14, kinds=["where", "at", "colour_at"])
    swapped = [dataclasses.replace(e, image=sample[i - 7].image) for i, e in enumerate(sample)]
    assert evaluate(model, processor, swapped)["overall"].share < 0.5


def test_it_is_a_genuine_llava(shipped):
    assert type(shipped[0]) is LlavaForConditionalGeneration
    assert len(shipped[0].model.language_model.layers) == 8


@pytest.mark.parametrize("batch_size", [0, -2])
def test_batch_size_must_be_positive(shipped, batch_size):
    with pytest.raises(ValueError, match=f"batch_size must be at least 1, got {batch_size}"):
        answer(*shipped, examples("test", 1), batch_size=batch_size)


def test_nothing_to_evaluate(shipped):
    with pytest.raises(ValueError, match="examples is empty"):
        evaluate(*shipped, [])
