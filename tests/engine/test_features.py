"""Features computed once: kept in a file, sent through a queue, copied, and fed back while something is attached."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from accelerate.utils import send_to_device

import vtokens
from tests.families import FAMILIES, build, image, inputs

pytestmark = pytest.mark.usefixtures("no_grad")
SPECS = ("none", "cls(keep=0.5)", "todre(keep=0.5)+fastv(keep=0.5, layer=2)", "dymu(thresholds=(0.5, 0.5))")


def features(model: Any, batch: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    names = ("pixel_values", "image_sizes", "image_grid_thw", "batch_num_images")
    made = model.model.get_image_features(**{n: batch[n] for n in names if n in batch}, return_dict=True)
    return made, {name: value for name, value in batch.items() if name != "pixel_values"}


def through_file(made: Any) -> Any:
    file = io.BytesIO()
    torch.save(made, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


WAYS = {
    "file": through_file,
    "pickle": lambda made: pickle.loads(pickle.dumps(made)),
    "deepcopy": copy.deepcopy,
    "accelerate": lambda made: send_to_device(made, "cpu"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", FAMILIES)
def test_features_that_come_back_work_as_those_just_made(family: str, way: str) -> None:
    model, processor = build(family)
    batch = dict(inputs(processor, ["what is <image> this?"], [[image(100, 84, seed=1)]]))
    for spec in SPECS:
        with vtokens.attach(model, spec):
            expected = model(**batch).logits
            made, rest = features(model, batch)
            again = WAYS[way](made)
            assert all(isinstance(part, torch.Tensor | tuple | list) for part in again.values())
            assert torch.equal(model(**rest, mm_encoder_outputs={"image": again}).logits, expected), spec


def test_they_reach_no_model_and_load_without_classes() -> None:
    """Far smaller than the model, without its classes, and torch's own restricted loading takes the tensors."""
    model, processor = build("llava")
    batch = dict(inputs(processor, ["a <image> b"], [[image(84, 84, seed=1)]]))
    plain = len(pickle.dumps(features(model, batch)[0]))
    with vtokens.attach(model, "cls(keep=0.5)"):
        made, rest = features(model, batch)
        expected = model(**batch).logits
        stored = pickle.dumps(made)
        assert len(stored) < plain + 20_000
        assert b"Llava" not in stored
        file = io.BytesIO()
        torch.save(dict(made), file)
        file.seek(0)
        loaded = torch.load(file, weights_only=True)
        again = copy.copy(made)
        for name, value in loaded.items():
            assert isinstance(value, torch.Tensor | tuple | list)
            again[name] = value
        assert torch.equal(model(**rest, mm_encoder_outputs={"image": again}).logits, expected)


def test_what_stored_features_do_not_tell_is_refused() -> None:
    model, processor = build("llava")
    batch = dict(inputs(processor, ["a <image> b"], [[image(84, 84, seed=1)]]))
    with vtokens.attach(model, "none"):
        made, rest = features(model, batch)
    with vtokens.attach(model, "cls(keep=0.5)"), pytest.raises(ValueError, match="computed under another strategy"):
        model(**rest, mm_encoder_outputs={"image": made})
    stored = through_file(made)
    with vtokens.attach(model, "vcd"), pytest.raises(ValueError, match="stored features hold no pixels"):
        model(**rest, mm_encoder_outputs={"image": stored})
    other = build("llava_next")[0]
    with vtokens.attach(other, "uniform(keep=0.5)"), pytest.raises(ValueError, match="are of a 'llava' model"):
        other(**rest, mm_encoder_outputs={"image": stored})
