"""Folders written by transformers of years ago, with configurations and names of weights as they were then."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import vtokens
from tests.families import build, image, inputs

SPEC = "cls(keep=0.5)+fastv(keep=0.5, layer=1)"


def llava(config: dict[str, Any]) -> dict[str, Any]:
    """As of 4.36: fields of the text's rotary embedding at the top of its part, and others that are gone."""
    text = config["text_config"]
    text["rope_theta"] = text.pop("rope_parameters")["rope_theta"]
    text["torch_dtype"] = text.pop("dtype")
    return config | {"ignore_index": -100, "projector_hidden_act": "gelu", "vocab_size": text["vocab_size"]}


def qwen2_vl(config: dict[str, Any]) -> dict[str, Any]:
    """As of 4.45: all about the text at the top, and `mrope` in `rope_scaling`."""
    text = config.pop("text_config")
    rope = text.pop("rope_parameters")
    text["rope_theta"] = rope["rope_theta"]
    text["rope_scaling"] = {"type": "mrope", "mrope_section": rope["mrope_section"]}
    text.pop("layer_types", None)
    return {**text, **config}


OLDER = {
    "llava": (
        llava,
        {"model.language_model.": "language_model.model.", "lm_head.": "language_model.lm_head.", "model.": ""},
    ),
    "qwen2_vl": (qwen2_vl, {"model.language_model.": "model.", "model.visual.": "visual."}),
    "qwen2_5_vl": (qwen2_vl, {"model.language_model.": "model.", "model.visual.": "visual."}),
}  # fmt: skip


def renamed(name: str, names: dict[str, str]) -> str:
    new = next((new for new in names if name.startswith(new)), "")
    return names.get(new, "") + name.removeprefix(new)


@pytest.mark.parametrize("family", OLDER)
def test_an_older_checkpoint_answers_as_a_new_one(family: str, tmp_path: Path) -> None:
    older, names = OLDER[family]
    model, processor = build(family)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config = older(config) | {"torch_dtype": config.pop("dtype"), "transformers_version": "4.36.0"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights = load_file(tmp_path / "model.safetensors")
    save_file(
        {renamed(name, names): one for name, one in weights.items()}, tmp_path / "model.safetensors", {"format": "pt"}
    )
    loaded, own = vtokens.load(tmp_path, SPEC)
    batch = inputs(own, ["what is it?"], [[image(84, 56, seed=1)]])
    with torch.no_grad(), vtokens.attach(model, SPEC):
        expected = model(**batch).logits
        assert torch.equal(loaded(**batch).logits, expected)
