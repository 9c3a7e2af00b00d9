"""The recipe `ara`, against cosines of projected features sorted in float64, and plain answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vtokens
from tests.families import build, image
from tests.recipes.looking import GREEDY, QUESTION, answered, made, prompted
from vtokens.recipes import ara
from vtokens.recipes.looking.ara import within

pytest.importorskip("sklearn")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed in range(5):
        image(112, 84, seed=seed).save(tmp_path / f"p{seed}.png")
        if seed != 3:
            (tmp_path / f"p{seed}.txt").write_text(f"caption number {seed} of five\n")
    (tmp_path / "notes.md").write_text("no picture")
    return tmp_path


def cosines(family: str, model: Any, processor: Any, folder: Path, shown: Any) -> dict[str, float]:
    """By name: the cosine of the means of features, as the class gives them for one picture, in float64."""

    def mean(one: Any) -> np.ndarray:
        inputs = prompted(processor, "", one)
        given = {name: inputs[name] for name in ("pixel_values", "image_grid_thw", "image_sizes") if name in inputs}
        found = model.model.get_image_features(**given).pooler_output
        return torch.cat([part.reshape(-1, part.shape[-1]) for part in found]).double().mean(0).detach().numpy()

    own, result = mean(shown), {}
    for path in folder.glob("*.png"):
        other = mean(Image.open(path).convert("RGB"))
        result[path.name] = float(own @ other / np.linalg.norm(own) / np.linalg.norm(other))
    return result


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "llava_next"])
def test_neighbours_are_those_of_sorted_cosines(family: str, folder: Path) -> None:
    """One pass, with the captions of the nearest in front of the question, pictures without one left out."""
    model, processor = made(family)
    shown = image(112, 84, seed=11)
    got = answered(ara, model, processor, shown, folder=str(folder), count=2, words=7, **GREEDY)
    assert got.passes == 1
    near = cosines(family, model, processor, folder, shown)
    del near["p3.png"]
    order = sorted(near, key=lambda name: -near[name])[:2]
    assert got.notes["neighbours"] == order
    told = [f"caption number {order[0][1]} of five", "caption number"]
    assert got.notes["captions"] == told
    text = f"Captions of pictures that look alike:\n- {told[0]}\n- {told[1]}\n{QUESTION}"
    tokens = model.generate(**prompted(processor, text, shown), do_sample=False, **GREEDY)
    assert torch.equal(got.said.sequences, tokens)


def test_pictures_are_shown_behind_the_own_one_and_pruned_with_it(folder: Path) -> None:
    model, processor = made("qwen2_5_vl")
    shown = image(112, 84, seed=2)
    with vtokens.attach(model, "cls(keep=0.5)") as handle:
        got = ara(model, processor, shown, QUESTION, folder=str(folder), count=2, show="pictures", **GREEDY)
        assert len(handle.report().samples[0].pictures) == 3
    assert got.notes["neighbours"][0] == "p2.png"  # itself
    assert len(got.images) == 3
    assert got.flops < got.flops_full


def test_it_asks_the_folder_only_where_the_plain_answer_is_unsure(folder: Path) -> None:
    """when=inf is the plain answer in one pass; a threshold below the entropy of the first token asks twice."""
    model, processor = made("llava")
    shown = image(112, 84, seed=11)
    inputs = prompted(processor, QUESTION, shown)
    plain = model.generate(**inputs, do_sample=False, **GREEDY)
    with torch.no_grad():
        p = model(**inputs).logits[0, -1].double().softmax(-1)
    entropy = float(-(p * p.log()).sum())
    got = ara(model, processor, shown, QUESTION, folder=str(folder), when=float("inf"), **GREEDY)
    assert torch.equal(got.said.sequences, plain)
    assert (got.passes, got.notes["neighbours"]) == (1, [])
    assert got.said.unsure == pytest.approx(entropy, rel=1e-4)
    for when, passes in ((entropy * 1.01, 1), (entropy * 0.99, 2)):
        assert ara(model, processor, shown, QUESTION, folder=str(folder), when=when, **GREEDY).passes == passes


def test_a_changed_folder_is_seen_anew(folder: Path) -> None:
    model, processor = made("llava")
    shown = image(112, 84, seed=11)
    ara(model, processor, shown, QUESTION, folder=str(folder), **GREEDY)
    shown.save(folder / "same.png")
    (folder / "same.txt").write_text("the same")
    got = ara(model, processor, shown, QUESTION, folder=str(folder), count=1, **GREEDY)
    assert got.notes["captions"] == ["the same"]


def test_a_folder_is_seen_anew_through_other_weights_and_another_processor(folder: Path) -> None:
    """What was fitted since is often the projector alone; a processor may be told to see pictures otherwise."""
    model, processor = build("llava")
    shown, draws = image(112, 84, seed=11), torch.Generator().manual_seed(3)

    def order() -> list[str]:
        return ara(model, processor, shown, QUESTION, folder=str(folder), count=5, show="pictures", **GREEDY).notes[
            "neighbours"
        ]

    def expected() -> list[str]:
        near = cosines("llava", model, processor, folder, shown)
        return sorted(near, key=lambda name: -near[name])

    found = [order()]
    with torch.no_grad():
        for one in model.model.multi_modal_projector.parameters():
            one.copy_(torch.randn(one.shape, generator=draws))
    found.append(order())
    assert found[1] == expected()
    processor.image_processor.image_mean = [-9.0, 0.5, 4.0]
    found.append(order())
    assert found[2] == expected()
    assert len({*map(tuple, found)}) == 3


def test_captions_within_so_many_words() -> None:
    assert within(["a b c", "d e", "f"], 4) == ["a b c", "d"]
    assert within(["a b c"], 9) == ["a b c"]
    assert within(["a b", "c"], 2) == ["a b"]


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    model, processor = made("llava")
    shown = image(60, 60, seed=1)
    for more, error, says in (
        ({}, ValueError, "needs a folder of pictures"),
        ({"folder": str(tmp_path / "none")}, FileNotFoundError, "no such folder of pictures"),
        ({"folder": str(tmp_path)}, ValueError, "holds no picture"),
        ({"folder": "x", "count": 0}, ValueError, "at least 1"),
        ({"folder": "x", "when": -1.0}, ValueError, "from 0, or inf"),
    ):
        with pytest.raises(error, match=says):
            ara(model, processor, shown, QUESTION, **more)
    shown.save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="no picture with a caption"):
        ara(model, processor, shown, QUESTION, folder=str(tmp_path))
    with pytest.raises(ValueError, match="num_beams=2"):
        ara(model, processor, shown, QUESTION, folder=str(tmp_path), show="pictures", when=1.0, num_beams=2)
