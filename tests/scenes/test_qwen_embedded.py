"""scenes-qwen, the embedded model that sees clips: it answers as well as its card says, pruned or not."""

import json
from typing import Any

import pytest
import torch
from transformers import Qwen2_5_VLForConditionalGeneration

import vtokens
from vtokens import scenes
from vtokens.scenes import clips

NAME = "scenes-qwen"
# Well below what the card reports, so that a sample of thirty does not fail by chance.
LEAST = {"exist": 0.85, "where": 0.8, "at": 0.8, "colour_at": 0.85, "colour_of": 0.85, "shape_of": 0.85, "seen": 0.85}


@pytest.fixture(scope="module")
def shipped() -> tuple[Any, Any]:
    model, processor = vtokens.load(NAME, strategy="none", dtype=torch.float32)
    return model.eval(), processor


def test_it_is_genuine_small_and_listed(shipped: tuple[Any, Any]) -> None:
    assert NAME in scenes.embedded_models()
    assert type(shipped[0]) is Qwen2_5_VLForConditionalGeneration
    folder = scenes.embedded_path(NAME)
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 12_000_000
    assert json.loads((folder / "config.json").read_text())["model_type"] == "qwen2_5_vl"
    assert (folder / "README.md").exists()


@torch.no_grad()
def test_accuracy_on_pictures_and_clips(shipped: tuple[Any, Any]) -> None:
    pictures = [kind for kind in LEAST if kind in scenes.KINDS]
    asked = scenes.examples("test", n=30 * len(pictures), seed=11, kinds=pictures)
    asked += clips.examples("test", n=30, seed=11, kinds=["seen"], frames=16)
    found = scenes.evaluate(*shipped, asked, batch_size=32)
    for kind, least in LEAST.items():
        assert found[kind].n == 30
        assert found[kind].share >= least, f"{kind}: {found[kind]}"


@torch.no_grad()
def test_a_pruned_clip_is_answered_from_what_is_left(shipped: tuple[Any, Any]) -> None:
    """Half of the tokens are enough for most questions; of a few, chosen without looking, less is known."""
    model, processor = shipped
    asked = clips.examples("test", n=40, seed=12, kinds=["seen", "way"], frames=16)
    right = {}
    for spec in ("evs(keep=0.5)", "random(keep=0.02)"):
        with vtokens.attach(model, spec) as handle:
            right[spec] = scenes.evaluate(model, processor, asked)["overall"].share
            counts = [part.picture.tokens for sample in handle.report().samples for part in sample.pictures]
        assert set(counts) == {8 * 64}
    assert right["evs(keep=0.5)"] > right["random(keep=0.02)"] + 0.1
