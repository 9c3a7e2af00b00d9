"""What others wrote (a model, a caption, a file's name, a plugin) is shown on a terminal and never obeyed."""

import ast
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import vtokens
from vtokens import scenes
from vtokens.cli import main
from vtokens.core.terminal import json_text, one_line, printable
from vtokens.scenes.model import WORDS

EVIL = "\x1b[2J\x1b]0;title\x07\x9b31m\x85\u202egnp.exe\u2066"
MODULES = Path(vtokens.__file__).parent / "cli"


def steers(text, lines=True):
    """The characters of `text` that a terminal would obey."""
    turns = {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}
    allowed = "\n\t" if lines else ""
    return [
        c for c in text
        if (unicodedata.category(c) in ("Cc", "Cs") and c not in allowed) or unicodedata.bidirectional(c) in turns
    ]  # fmt: skip


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    path = tmp_path_factory.mktemp("output") / "scene.png"
    scenes.examples("decorrelated", n=1, kinds=["caption"])[0].image.save(path)
    return path


def call(capsys, *arguments):
    """(exit code, stdout, stderr)"""
    code = 0
    try:
        main([*map(str, arguments)])
    except SystemExit as stop:
        code = stop.code
    return code, *capsys.readouterr()


@given(st.text(st.characters(codec=None), max_size=60))
def test_no_character_that_steers_is_left_and_the_others_stay(text):
    shown = printable(text)
    assert not steers(shown)
    assert "".join(c for c in text if not steers(c)) == text if not steers(text) else shown != text
    assert not steers(one_line(text, 40), lines=False)
    assert len(one_line(text * 40, 40)) < 100
    written = json_text({"a": [text]}, indent=1)
    assert not steers(written)
    assert json.loads(written) == {"a": [text]}


@pytest.mark.parametrize("command", ["run", "check"])
def test_the_name_of_a_file_cannot_steer(capsys, tmp_path, command):
    code, out, err = call(capsys, command, tmp_path / f"{EVIL}.png", "what?")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert not steers(err)
    assert "\\x1b[2J" in err


def test_a_caption_cannot_steer(capsys, scene):
    for more in ((), ("--json",)):
        code, out, err = call(capsys, "check", scene, f"red circle {EVIL}", "--filter", "none", *more)
        assert code == 1, err  # scores above 0.5, and the rest is shown as what was not judged
        assert not steers(out + err)
        assert "[2J" in out


def test_a_models_answer_cannot_steer(capsys, tmp_path, scene):
    """A genuine model whose words are written otherwise: each of them rings, and clears the screen."""
    model, processor = vtokens.load("scenes-llava")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    plain = [word for word in WORDS if word.isalpha()]
    content["model"]["vocab"] = {word + EVIL * (word in plain): number for word, number in vocabulary.items()}
    path.write_text(json.dumps(content))
    code, out, err = call(capsys, "run", scene, "describe the image", "--model", tmp_path)
    assert code == 0, err
    assert not steers(out + err)
    assert "\\x1b[2J" in out


def test_every_command_prints_through_the_one_function():
    for path in MODULES.glob("*.py"):
        calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        plain = [call for call in calls if isinstance(call, ast.Name) and call.id == "print"]
        assert len(plain) == (path.name == "output.py"), path


def test_what_an_encoding_has_not_is_escaped(scene):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(MODULES.parents[1])}
    done = subprocess.run(
        [sys.executable, "-m", "vtokens", "check", scene, "red circle 犬", "--filter", "none"],
        capture_output=True, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr  # the circle's score is above 0.5
    assert b"\\u72ac" in done.stdout


def process(code, *, stdout=subprocess.PIPE):
    head = "import sys; from vtokens.cli import main\n"
    return subprocess.Popen(
        [sys.executable, "-c", head + textwrap.dedent(code)],
        stdin=subprocess.PIPE, stdout=stdout, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(MODULES.parents[1])},
    )  # fmt: skip


@pytest.mark.parametrize("arguments", [["strategies"], ["check", "SCENE", "red circle", "--filter", "none"]])
def test_a_reader_that_leaves_is_no_error(scene, arguments):
    arguments = [str(scene) if a == "SCENE" else a for a in arguments]
    read, write = os.pipe()
    os.close(read)
    running = process(f"main({arguments!r})", stdout=write)
    os.close(write)
    _, err = running.communicate(timeout=60)
    assert (running.returncode, err) == (141, "")


def test_ctrl_c_is_quiet(scene):
    running = process(f"""
        import contextlib, signal
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are begun without one
        with contextlib.suppress(SystemExit):  # once before: nothing is imported any more when the signal comes
            main(["check", {str(scene)!r}, "red circle"])
        print("ready", flush=True)
        main(["check", {str(scene)!r}, "-"])  # waits for the standard input
    """)
    while running.stdout.readline() != "ready\n":
        assert running.poll() is None
    time.sleep(1)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert (running.returncode, out, err) == (130, "", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_line():
    with open("/dev/full", "w") as full:
        running = process("main(['models'])", stdout=full)
        _, err = running.communicate(timeout=60)
    assert running.returncode == 2
    assert err.startswith("vtokens: error: ")
    assert err.count("\n") == 1


def test_warnings_are_one_line_without_code(capsys, tmp_path):
    frames = [Image.new("RGB", (96, 96), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    for _ in range(2):  # said again by the next call
        code, _, err = call(capsys, "run", tmp_path / "a.gif", "how many objects are there?")
        assert code == 0
        assert "vtokens: warning: the image" in err
        assert "several frames" in err
        assert "warn(" not in err


BROKEN = ["import sys; sys.exit(3)", "raise RuntimeError('its\\x1b[2J library')", "raise GeneratorExit"]


def test_a_plugin_that_ends_the_process_is_named_and_passed_over(tmp_path):
    info = tmp_path / "bad_plugins-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bad_plugins\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[vtokens.strategies]\n" + "".join(f"bad{n} = bad_plugin{n}\n" for n in range(len(BROKEN)))
    )
    for number, body in enumerate(BROKEN):
        (tmp_path / f"bad_plugin{number}.py").write_text(body)
    running = process(f"""
        sys.path.insert(0, {str(tmp_path)!r})
        for name in ("*", "bad0", "bad1", "bad2", "bad3"):
            try:
                main(["strategies", name])
            except SystemExit as stop:
                print(name, stop.code)
    """)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 0
    assert "fastv" in out
    assert out.endswith("bad0 2\nbad1 2\nbad2 2\nbad3 2\n")
    assert not steers(err)
    lines = err.splitlines()
    for number in range(3):  # one warning in a process, and an error where it is asked for
        told = f"strategy plugin 'bad{number}' (bad_plugin{number}) could not be loaded: "
        assert lines[number].startswith(told)
        assert lines[3 + number].startswith(f"vtokens: error: the {told}")
    assert "unknown strategy 'bad3'" in lines[6]
