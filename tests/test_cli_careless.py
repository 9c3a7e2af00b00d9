"""Commands that would cost their user a file, or answer beside the question: results written over what is read, marks
of text files, pictures of kinds that nothing here knows, counts and shares that look alike."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import pytest

from tests import test_cli
from vtokens import scenes
from vtokens.cli import main
from vtokens.cli.examples import read_examples
from vtokens.strategies.spec import parse

Capture = pytest.CaptureFixture[str]


def failure(capsys: Capture, *arguments: object) -> str:
    return test_cli.failure(capsys, *map(str, arguments))


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    path = tmp_path / "scene.png"
    scenes.examples("test", n=1, seed=3)[0].image.save(path)
    return path


@pytest.mark.parametrize("linked", [False, True], ids=["itself", "by a link"])
@pytest.mark.parametrize(
    "command",
    ["compare FILE what? --out", "run FILE what? --overlay", "heads relevance scenes-llava FILE ring --out"],
)
def test_what_is_read_is_not_written_over(capsys: Capture, scene: Path, command: str, linked: bool) -> None:
    before, target = scene.read_bytes(), scene
    if linked:
        target = scene.with_name("link.png")
        os.link(scene, target)
    assert "is what is read, and would be lost: give another name" in failure(
        capsys, *(scene if part == "FILE" else part for part in command.split()), target
    )
    assert scene.read_bytes() == before


@pytest.mark.parametrize("command", ["fit", "press"])
def test_nor_are_labels(capsys: Capture, tmp_path: Path, command: str) -> None:
    labels = tmp_path / "few.jsonl"
    labels.write_text('{"image": "1.png", "label": "wren"}\n')
    assert "would be lost" in failure(capsys, "heads", command, "scenes-llava", labels, "--out", labels)
    assert labels.read_text() == '{"image": "1.png", "label": "wren"}\n'


@pytest.mark.parametrize("name", ["photo.heic", "photo.HEIF", "drawing.svg"])
def test_a_picture_that_nothing_reads_is_called_one(capsys: Capture, tmp_path: Path, name: str) -> None:
    kinds = {".heic": b"\0\0\0\x18ftypheic" + bytes(50), ".svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>"}
    path = tmp_path / name
    path.write_bytes(kinds.get(path.suffix, bytes(50)))
    said = failure(capsys, "run", path, "what?")
    assert "cannot read the image" in said
    assert "Save it as PNG or JPEG" in said
    assert "video" not in said


def test_text_on_the_standard_input(capsys: Capture, scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte order mark is no part of the text that is checked, and what is no text is called so."""

    def given(data: bytes) -> None:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data), "utf-8"))

    found = []
    for data in (b"red circle", b"\xef\xbb\xbfred circle\r\n"):
        given(data)
        with pytest.raises(SystemExit):
            main(["check", str(scene), "-", "--json", "--threshold", "0"])
        found.append(capsys.readouterr().out)
    assert found[0] == found[1]
    for command in (("check", scene, "-"), ("run", scene, "-"), ("compare", scene, "-")):
        given(b"\xff\xfer\0e\0d\0")
        assert "the standard input is no text in utf-8" in failure(capsys, *command)


def test_files_of_examples(tmp_path: Path) -> None:
    """A byte order mark, line breaks of Windows, and characters inside of a text that other tools break lines at."""
    path = tmp_path / "few.jsonl"
    path.write_bytes('\ufeff{"label": "a\u2028b"}\r\n\r\n{"label": "c"}\r\n'.encode())
    assert [row["label"] for row in read_examples(path, "a label", {"label": "wren"})] == ["a\u2028b", "c"]


def test_where_the_filter_goes_on_it_needs_files(capsys: Capture, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"image": "a.png", "caption": "red circle"}\n')
    asked: list[Any] = ["filter", "--images", tmp_path]
    assert "the standard input" in failure(capsys, *asked, "--input", "-", "--output", tmp_path / "out.jsonl")
    assert "the standard input or output" in failure(capsys, *asked, "--input", rows, "--output", "-")
    assert "is a folder: the output is a file" in failure(capsys, *asked, "--input", rows, "--output", tmp_path)
    assert "is a folder: the output is a file" in failure(capsys, *asked, "--input", rows, "--output", ".")
    assert not Path("-").exists()


@pytest.mark.parametrize("risk", ["0", "1", "nan", "-1"])
def test_a_risk_is_refused_by_its_own_name(capsys: Capture, scene: Path, risk: str) -> None:
    assert f"--risk {float(risk):g} is not allowed" in failure(capsys, "check", scene, "red circle", f"--risk={risk}")


def test_strategies_that_are_misread(capsys: Capture, scene: Path) -> None:
    """`none` beside others, and lists that cannot be read, which are repeated as they were written."""
    with pytest.raises(ValueError, match="'none' is the model as it is, and stands by itself"):
        parse("none+fastv")
    assert "cannot read the strategies 'cls,fastv(': write" in failure(
        capsys, "compare", scene, "what?", "--strategies", "cls,fastv("
    )


def test_a_count_of_one_and_the_whole_share_are_two(capsys: Capture, scene: Path, tmp_path: Path) -> None:
    """1 == 1.0 to Python: one token, and all of them."""
    main(["compare", str(scene), "what?", "--strategies", "cls", "--keep", "1,1.0", "--out", str(tmp_path / "c.html")])
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("  cls, keep 1 ") and " 1.0 of 144" in line for line in lines)
    assert any(line.startswith("  cls, keep 1.0 ") and "144.0 of 144" in line for line in lines)
    pytest.importorskip("lmms_eval")
    asked = ["eval", "--tasks", "scenes_vqa", "--strategies", "cls", "--keep", "1,1.0", "--limit", "1"]
    main([*asked, "--out", str(tmp_path / "runs")])
    cells = [line.replace("│", " ").split() for line in capsys.readouterr().out.splitlines()]
    found = {(line[1], line[-1]) for line in cells if line[:1] == ["cls"]}
    assert found == {("1", "1.0"), ("1.0", "144.0")}
    scene_file = failure(capsys, *asked, "--out", scene)
    assert "is a file: give a new folder" in scene_file
