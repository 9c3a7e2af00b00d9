"""Three hundred bad inputs of the command line, and some of the API: one short line each, no traceback, no hang."""

import json
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vtokens
from vtokens import scenes
from vtokens.cli import main
from vtokens.core.images import as_image
from vtokens.eval.cells import cells
from vtokens.strategies import parse

from .bad_lines import ESCAPE, LONG, cases, name

LINE = 1300  # characters
SECONDS = 30  # the first command line also imports what evaluates


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """What the words in capital letters stand for."""
    folder = tmp_path_factory.mktemp("bad")
    place = {word: folder / word.lower() for word in ("FOLDER", "TEXT", "EMPTY", "CUT", "PIPE", "BOMB", "JSON", "LIST",
             "DEEP", "ROWS", "SCENE")}  # fmt: skip
    place["FOLDER"].mkdir()
    place["TEXT"].write_text("nothing that is asked for\n")
    place["EMPTY"].write_bytes(b"")
    place["JSON"].write_text("{}")
    place["LIST"].write_text('[1, "a", null, NaN]')
    place["DEEP"].write_text("[" * 100_000)
    place["ROWS"].write_text(json.dumps({"image": "none.png", "caption": "red circle"}) + "\n")
    os.mkfifo(place["PIPE"])
    scenes.examples("decorrelated", n=1, kinds=["caption"])[0].image.save(place["SCENE"], "PNG")
    place["CUT"].write_bytes(place["SCENE"].read_bytes()[:500])
    head = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    place["BOMB"].write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + place["SCENE"].read_bytes()[33:])
    return {"NEW": folder / "new"} | place


@pytest.fixture(scope="module", autouse=True)
def warm(files):
    """Imports are no part of what is timed."""
    with pytest.raises(SystemExit):
        main(["check", str(files["SCENE"]), "a lovely day"])
    if find_spec("lmms_eval"):
        from vtokens.eval import sweep  # noqa: F401


class Hangs(BaseException):
    """It waits for something that never comes."""


def stop(*_):
    raise Hangs


@pytest.fixture
def bounded():
    """Fail what takes too long."""
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(6 * SECONDS)
    start = time.process_time()
    yield
    used = time.process_time() - start
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
    assert used < SECONDS


def filled(word, files):
    for known, path in files.items():
        if known in word and word != known.lower():
            word = word.replace(known, str(path))
    return word


@pytest.mark.parametrize("line", cases(), ids=name)
def test_a_bad_command_line_is_one_short_line(capsys, monkeypatch, tmp_path, files, bounded, line):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VTOKENS_DEBUG", raising=False)
    if line and line[0] == "eval":
        pytest.importorskip("lmms_eval")
    with pytest.raises(SystemExit) as stop:
        main([filled(word, files) for word in line])
    out, err = capsys.readouterr()
    told = [one for one in err.splitlines() if not one.startswith(("vtokens: warning: ", "vtokens: note: "))]
    assert (stop.value.code, out) == (2, ""), (out, err)
    assert len(told) == 1, err
    assert told[0].startswith("vtokens: error: ")
    assert len(told[0]) < LINE
    assert "Traceback" not in err
    assert "not foreseen" not in err
    assert not {c for c in err if c < " " and c != "\n"} | {c for c in err if "\x7f" <= c < "\xa0" or c == "\u202e"}
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "line", [["run", "PIPE", "what?"], ["strategies", "fastw"], ["check", "SCENE", "x", "--risk", "2"]]
)
def test_the_same_in_a_process_of_its_own(files, line):
    environment = {**os.environ, "PYTHONPATH": str(Path(vtokens.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-m", "vtokens", *(filled(word, files) for word in line)],
        capture_output=True, text=True, timeout=120, env=environment, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("vtokens: error: ")
    assert done.stderr.count("\n") == 1


@pytest.fixture(scope="module")
def model():
    return vtokens.load("scenes-llava")[0]


THINGS = [None, 3, -1, 1.5, float("nan"), True, b"fastv", object(), {}, {"a": 1}, [[]], [None], "", LONG, "\0", ESCAPE,
          np.zeros(3), torch.zeros(2, 2), Path("none"), lambda: 0, int, 10**400]  # fmt: skip
ALLOWED = (TypeError, ValueError, OSError, ImportError)


def message(call):
    """What the error says that a call raised, None if it raised none."""
    try:
        call()
    except ALLOWED as error:
        return str(error)
    return None


@pytest.mark.parametrize("thing", THINGS, ids=lambda thing: type(thing).__name__)
def test_the_api_says_what_is_wrong(model, bounded, thing):
    """Each call raises one of the errors that are documented, with a message of bounded length, or takes the value."""
    calls = [
        lambda: vtokens.load(thing),
        lambda: vtokens.load("scenes-llava", strategy=thing),
        lambda: vtokens.attach(model, thing).detach(),
        lambda: vtokens.attach(model, "fastv", keep=thing).detach(),
        lambda: parse({"name": thing}),
        lambda: parse({"name": "fastv", "keep": thing}),
        lambda: parse("fastv", layer=thing),
        lambda: vtokens.describe(thing),
        lambda: cells(["fastv"], [thing]),
        lambda: cells(["none"], seeds=[thing]),
        lambda: as_image(thing),
        lambda: vtokens.from_pretrained(thing),
        lambda: vtokens.HallucinationFilter.from_pretrained(model, thing, calibrator=thing),
    ]
    for number, call in enumerate(calls):
        told = message(call)
        assert told is None or 0 < len(told) < 4 * LINE, (number, told)
    assert vtokens.attachment(model) is None


def test_a_picture_is_not_taken_for_a_model():
    with pytest.raises(TypeError, match="model="):
        vtokens.HallucinationFilter.from_pretrained(Image.new("RGB", (9, 9)), None)
