"""Calibration of merging thresholds, and the command that does it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import vtokens
from tests.families import FAMILIES, build, image, inputs
from vtokens import scenes
from vtokens.calibrate.thresholds import measure, schedule
from vtokens.cli import main
from vtokens.tables import thresholds as tables


def pictures(family: str, count: int = 12, batch: int = 4) -> list[dict[str, Any]]:
    """Batches of pictures of different sizes."""
    sizes = ((100, 60), (60, 130), (84, 84), (57, 112))
    drawn = [image(*sizes[i % 4], seed=i) for i in range(count)]
    parts = [drawn[start : start + batch] for start in range(0, count, batch)]
    return [dict(inputs(family, ["what?"] * len(part), [[p] for p in part])) for part in parts]


@pytest.mark.parametrize("family", FAMILIES)
def test_about_the_wanted_share_is_left(family: str) -> None:
    """On the pictures measured; thresholds are cosines, one a block up to the feature block, none below 0."""
    model, batches = build(family)[0], pictures(family)
    before = [p.clone() for p in model.parameters()]
    table = measure(model, lambda: batches, (0.7, 0.4), "made up")
    assert [setting.target for setting in table.settings] == [0.7, 0.4]
    for setting in table.settings:
        assert setting.left == pytest.approx(setting.target, abs=0.1)
        assert all(0 <= value <= 1 for value in setting.thresholds)
        assert len(setting.rates) == len(setting.thresholds)
        assert sum(setting.rates) == pytest.approx(1 - setting.target, abs=1e-3)
    assert vtokens.attachment(model) is None
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    with torch.no_grad(), vtokens.attach(model, "dymu", thresholds=table.settings[1].thresholds) as handle:
        model(**batches[0])
        sample = handle.report().samples[0]
    assert sample.visual_tokens[0] < sum(kept.picture.tokens for kept in sample.pictures)


def test_simple_pictures_lose_more() -> None:
    """On the embedded model: a picture of one colour keeps fewer tokens than any scene."""
    model, processor = vtokens.load("scenes-llava", strategy="dymu")
    drawn = [example.image for example in scenes.examples("test", n=6, seed=3)]
    plain = Image.new("RGB", drawn[0].size, (90, 90, 90))
    batch = processor(images=[*drawn, plain], text=["<image>"] * 7, return_tensors="pt")
    with torch.no_grad():
        model(**batch)
    left = [sample.visual_tokens[0] for sample in vtokens.attachment(model).report().samples]
    assert left[-1] < min(left[:-1])


def test_the_schedule_is_even_where_it_can_be() -> None:
    """The paper's equal merges a block; where half of what is left is less than that, earlier blocks take it on."""
    assert schedule(0.4, 3) == pytest.approx((0.2, 0.2, 0.2))
    assert schedule(0.125, 3) == pytest.approx((0.5, 0.25, 0.125))
    low = schedule(0.15, 3)
    assert sum(low) == pytest.approx(0.85)
    assert low[1] == pytest.approx((1 - low[0]) / 2)
    assert len(schedule(0.35, None)) == 3


@pytest.mark.parametrize(
    ("target", "blocks", "message"),
    [
        (0.0, 3, r"target=0.0 is out of range: a share of the patches in \(0, 1\)"),
        (1.0, None, "out of range"),
        (0.1, 3, r"target=0.1 is out of reach: 3 blocks can leave 0.125 of the patches"),
    ],
)
def test_targets_out_of_reach(target: float, blocks: int | None, message: str) -> None:
    """More than half of its tokens no block can merge away."""
    with pytest.raises(ValueError, match=message):
        schedule(target, blocks)


def test_nothing_to_measure() -> None:
    """No target, or no pictures."""
    with pytest.raises(ValueError, match="no target"):
        measure(build("llava")[0], list, (), "none")
    with pytest.raises(ValueError, match="no pictures to measure"):
        measure(build("llava")[0], list, (0.5,), "none")


def test_pictures_that_cannot_be_read_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are named, others take their places, and only a folder without any that can be read is an error."""
    folder, out = tmp_path / "photos", tmp_path / "t.json"
    folder.mkdir()
    for number in range(5):
        image(96, 96, seed=number).save(folder / f"{number}.png")
    whole = (folder / "0.png").read_bytes()
    (folder / "0.png").write_bytes(whole[: len(whole) // 2])
    (folder / "2.png").write_text("no picture")
    os.mkfifo(folder / "1.jpg")
    arguments = ["calibrate", "dymu", "scenes-llava", "--images", str(folder), "--out", str(out), "--target", "0.4"]
    main([*arguments, "--samples", "2"])
    err = capsys.readouterr().err
    assert "3 of 5 pictures could not be read and were left out: 0.png, 1.jpg, 2.png" in err
    assert json.loads(out.read_text())["source"] == "vtokens calibrate dymu, 2 pictures"
    alone = tmp_path / "alone"
    alone.mkdir()
    for name in ("1.png", "3.png"):
        (alone / name).write_bytes((folder / name).read_bytes())
    main([*arguments[:4], str(alone), "--out", str(tmp_path / "a.json"), *arguments[7:]])
    assert json.loads((tmp_path / "a.json").read_text()) == json.loads(out.read_text())
    for name in ("1.png", "3.png", "4.png"):
        (folder / name).unlink()
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(arguments)
    assert "none of the 3 pictures in" in (err := capsys.readouterr().err)
    assert "0.png" in err


def test_the_command_writes_what_dymu_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From a folder of pictures, with two targets, for the embedded model."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(6):
        image(96, 96, seed=number).save(folder / f"{number}.png")
    out = tmp_path / "t.json"
    arguments = ["calibrate", "dymu", "scenes-llava", "--images", str(folder), "--out", str(out)]
    main([*arguments, "--target", "0.6", "--target", "0.3", "--batch", "4"])
    said = capsys.readouterr().out
    assert "target 0.6:" in said
    assert f'use it as "dymu(thresholds={str(out)!r}, target=0.6)"' in said
    assert json.loads(out.read_text())["source"] == "vtokens calibrate dymu, 6 pictures"
    model, _ = vtokens.load("scenes-llava", strategy=f"dymu(thresholds={str(out)!r}, target=0.3)")
    assert vtokens.attachment(model) is not None
    assert len(tables.read(out).settings) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch", "0"], "--batch: '0' is not allowed"),
        (["--target", "0.05"], "target=0.05 is out of reach"),
        (["--samples", "0"], "--samples: '0' is not allowed"),
        (["--images", "/nowhere"], "no pictures in '/nowhere'"),
    ],
)
def test_bad_options_are_one_line(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 and no file."""
    with pytest.raises(SystemExit) as error:
        main(["calibrate", "dymu", "scenes-llava", "--out", "never.json", "--samples", "2", *options])
    assert error.value.code == 2
    assert message in capsys.readouterr().err
    assert not Path("never.json").exists()
