"""`vtokens run` on what is no picture and no whole video: one line that says what is wrong, and no answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.families import build
from tests.video import files
from vtokens.cli import main

QUESTION = "how many objects are there?"
LOCKED = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "0f" * 16, "encryption_kid": "a7" * 16}


def cut(folder: Path, count: int) -> str:
    """The first part of a video whose header stands in front."""
    path = files.write(folder / "a.mp4", files.drawn(20), "mpeg4", container={"movflags": "faststart"})
    Path(path).write_bytes(Path(path).read_bytes()[:count])
    return path


def damaged(folder: Path) -> str:
    """A video with half a frame gone."""
    path = files.write(folder / "a.avi", files.drawn(20), "mpeg4")
    with files.av.open(path) as file:
        packet = [bytes(packet) for packet in file.demux(video=0) if packet.size][19]
    gone = packet[len(packet) // 2 :]
    Path(path).write_bytes(Path(path).read_bytes().replace(gone, bytes(len(gone))))
    return path


def text(folder: Path) -> str:
    (folder / "a.mp4").write_bytes(bytes(range(256)) * 40)
    return str(folder / "a.mp4")


def empty(folder: Path) -> str:
    (folder / "a.mp4").touch()
    return str(folder / "a.mp4")


BAD: dict[str, tuple[Callable[[Path], str], str]] = {
    "corrupt": (text, "cannot read the video "),
    "damaged": (damaged, "is damaged: frame 19 of 20, shown at 1.90 s, cannot be decoded"),
    "truncated": (lambda folder: cut(folder, 4000), "is incomplete: it holds 4,000 of the "),
    "header only": (lambda folder: cut(folder, 900), "a.mp4"),
    "zero-length": (empty, "is empty: a picture or a video is needed"),
    "audio-only": (lambda folder: files.sound(folder / "a.wav"), "holds no video, only audio (pcm_s16le)"),
    "encrypted": (
        lambda folder: files.write(folder / "a.mp4", files.drawn(9), container=LOCKED),
        "is encrypted: its frames need a key",
    ),
    "a moving line": (
        lambda folder: files.write(folder / "a.avi", [np.zeros((1, 5000, 3), np.uint8)] * 3, "ffv1", pix_fmt="bgr0"),
        "has frames of 5000 x 1 pixels: one side may be at most 200 times the other",
    ),
}


@files.needs_av
@pytest.mark.parametrize("kind", BAD)
def test_it_is_refused_in_one_line(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, says = BAD[kind]
    with pytest.raises(SystemExit) as stop:
        main(["run", make(tmp_path), QUESTION])
    out, err = capsys.readouterr()
    told = [one for one in err.splitlines() if not one.startswith("vtokens: warning: ")]
    assert (stop.value.code, out, len(told)) == (2, "", 1), err
    assert told[0].startswith("vtokens: error: ")
    assert says in told[0]
    assert "not foreseen" not in err


@files.needs_av
def test_more_frames_than_there_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All of them come."""
    path = files.write(tmp_path / "a.mp4", files.drawn(3))
    main(["run", path, QUESTION, "--frames", "9", "--json", "--model", "scenes-llava"])
    assert json.loads(capsys.readouterr().out)["inputs"][0]["frames"] == [0, 1, 2]


@pytest.mark.parametrize("size", [(5000, 1), (1, 5000)])
def test_a_picture_that_is_a_line(size: tuple[int, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """LLaVA makes a square of whatever it is shown; Qwen's processor says how long a picture may be."""
    Image.new("RGB", size).save(tmp_path / "a.png")
    main(["run", str(tmp_path / "a.png"), QUESTION, "--strategy", "cls", "--keep", "0.5", "--json"])
    assert json.loads(capsys.readouterr().out)["visual_tokens"] == 144
    model, processor = build("qwen2_vl")
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(["run", str(tmp_path / "a.png"), QUESTION, "--model", str(tmp_path / "model")])
    out, err = capsys.readouterr()
    assert (stop.value.code, out) == (2, "")
    assert err.splitlines()[-1].startswith("vtokens: error: absolute aspect ratio must be smaller than 200, got 5000")
