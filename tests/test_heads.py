"""Sparse attention vectors against loops in numpy and an eager model, and `vtokens heads`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vtokens
from tests.engine.masked import decoder_layers
from tests.families import build, image, inputs
from tests.limits import close_pass
from tests.test_cli import failure
from vtokens.adapters import adapter_for
from vtokens.calibrate.vectors import HeadVectors, cross_validated, fit, head_outputs
from vtokens.cli import main

LABELS = ["wren", "owl", "wren", "owl", "tit", "tit", "owl", "tit"]


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "qwen3_5"])
def test_outputs_are_what_the_output_projection_is_given(family: str, side: str) -> None:
    target, plain = build(family)[0], build(family, attn_implementation="eager")[0]
    texts, groups = ["Is there a cat?", "Which?"], [[image(84, 84, seed=0)], [image(100, 60, seed=1)]]
    batch = dict(inputs(family, texts, groups, padding_side=side))
    got = head_outputs(target, batch)
    seen: list[Any] = []
    layers = [decoder_layers(plain)[at].self_attn for at in adapter_for(plain).facts.attending]
    hooks = [layer.o_proj.register_forward_pre_hook(lambda module, args: seen.append(args[0])) for layer in layers]
    plain(**batch)
    for hook in hooks:
        hook.remove()
    last = (torch.arange(batch["input_ids"].shape[1]) * batch["attention_mask"]).argmax(1)
    width = got.shape[-1]
    assert got.shape[:2] == (2, len(layers))
    for number, one in enumerate(seen):
        row = one[torch.arange(2), last].view(2, -1, width)
        if family == "qwen3_5":  # whose attention puts a gate on its outputs, behind the heads
            assert got[:, number].shape == row.shape
            continue
        close_pass(got[:, number], row)


def loops(outputs: np.ndarray, labels: list[str], heads: int) -> list[tuple[int, int]]:
    """The heads that are most often right by the means of the others, earlier ones first."""
    names, right = sorted(set(labels)), {}
    for layer in range(outputs.shape[1]):
        for head in range(outputs.shape[2]):
            hits = 0
            for at, label in enumerate(labels):
                cosines = []
                for name in names:
                    rest = [i for i, other in enumerate(labels) if other == name and i != at]
                    mean = np.mean([outputs[i, layer, head] for i in rest], 0)
                    own = outputs[at, layer, head]
                    cosines.append(mean @ own / np.linalg.norm(mean) / np.linalg.norm(own))
                hits += names[int(np.argmax(cosines))] == label
            right[layer, head] = hits
    return sorted(right, key=lambda where: -right[where])[:heads]


def test_heads_and_votes_are_those_of_loops() -> None:
    outputs = torch.randn(8, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    for at, label in enumerate(LABELS):  # two heads know something
        outputs[at, 2, 1] += 3 * torch.eye(6)[len(label) - 3 + label.count("t")]
        outputs[at, 0, 3] += 2 * torch.eye(6)[len(label) - 3 + label.count("t")]
    found = fit(outputs, LABELS, "tiny", heads=3)
    assert [tuple(one) for one in found.heads.tolist()] == loops(outputs.double().numpy(), LABELS, 3)
    assert [2, 1] in found.heads.tolist()
    assert found.labels == ("owl", "tit", "wren")
    asked = torch.randn(5, 3, 4, 6, generator=torch.Generator().manual_seed(1))
    votes = np.zeros((5, 3))
    for row, one in enumerate(asked.double().numpy()):
        for layer, head in found.heads.tolist():
            means = [
                np.mean([outputs[i, layer, head].double().numpy() for i, n in enumerate(LABELS) if n == name], 0)
                for name in found.labels
            ]
            cosines = [mean @ one[layer, head] / np.linalg.norm(mean) for mean in means]
            votes[row, int(np.argmax(cosines))] += 1 / 3
    assert torch.allclose(found.votes(asked).double(), torch.from_numpy(votes), atol=1e-6)


def test_a_part_that_is_left_out_is_classified_by_the_others() -> None:
    """Noise is guessed, and what a head knows is told."""
    draw = torch.Generator().manual_seed(0)
    labels = ["a", "b"] * 20
    noise = torch.randn(40, 2, 3, 8, generator=draw)
    right, tried = cross_validated(noise, labels, 3)
    assert tried == 40
    assert right < 32
    told = noise + 4 * torch.tensor([[1.0 if label == "a" else -1.0] for label in labels])[:, :, None, None]
    assert cross_validated(told, labels, 3) == (40, 40)


def test_saved_and_read(tmp_path: Path) -> None:
    found = fit(torch.randn(8, 2, 2, 4, generator=torch.Generator().manual_seed(0)), LABELS, "tiny", 2, "Which bird?")
    found.save(tmp_path / "heads.safetensors")
    again = HeadVectors.load(tmp_path / "heads.safetensors")
    assert (again.labels, again.decoder, again.question) == (found.labels, "tiny", "Which bird?")
    assert torch.equal(again.heads, found.heads)
    assert torch.equal(again.means, found.means)
    (tmp_path / "other.safetensors").write_bytes(b"no tensors at all")
    with pytest.raises(ValueError, match="holds no head vectors"):
        HeadVectors.load(tmp_path / "other.safetensors")
    with pytest.raises(OSError, match="none"):
        HeadVectors.load(tmp_path / "none.safetensors")
    batch = dict(inputs("llava", ["Which?"], [[image(60, 60, seed=0)]]))
    with pytest.raises(ValueError, match="of the decoder 'tiny', and the model's is"):
        found.classify(build("llava")[0], batch)


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (["a"] * 4, "1 classes are not enough"),
        (["a", "a", "a", "b"], "class 'b' has one example"),
        (["a", "a"], "2 labels for 4 examples"),
        (["a", "a", "b\n", "b\n"], "line break"),
    ],
)
def test_examples_that_are_not_enough(labels: list[str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        fit(torch.randn(4, 1, 1, 2), labels, "tiny")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A few heads tell empty pictures from scenes, those left out too."""
    rows = []
    for number in range(12):
        picture = vtokens.scenes.examples("test", n=1, kinds=["where"], seed=number)[0].image
        empty = number % 2 == 0
        picture = Image.new("RGB", picture.size, (20 * number,) * 3) if empty else picture
        picture.save(tmp_path / f"{number}.png")
        rows.append({"image": f"{number}.png", "label": "empty" if empty else "scene"})
    labels, out = tmp_path / "few.jsonl", tmp_path / "heads.safetensors"
    labels.write_text("\n".join(map(json.dumps, rows[:10])), encoding="utf-8")
    main(["heads", "fit", "scenes-llava", str(labels), "--out", str(out), "--heads", "5"])
    told = capsys.readouterr().out
    assert "2 classes, 10 pictures" in told
    found = re.search(r"left out: ([\d.]+) \[.* of 10", told)
    assert found
    assert float(found[1]) >= 0.7
    main(["heads", "classify", "scenes-llava", str(out), str(tmp_path / "10.png"), str(tmp_path / "11.png")])
    empty, scene = capsys.readouterr().out.splitlines()
    assert "10.png: empty" in empty
    assert "11.png: scene" in scene
    labels.write_text('{"image": "0.png"}\n', encoding="utf-8")
    call = ["heads", "fit", "scenes-llava", str(labels), "--out", str(out)]
    assert "line 1 of" in failure(capsys, *call)
    labels.write_text("nothing\n", encoding="utf-8")
    assert "is no JSON" in failure(capsys, *call)
    assert "none.png" in failure(capsys, "heads", "classify", "scenes-llava", str(out), str(tmp_path / "none.png"))
