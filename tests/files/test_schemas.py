"""Schemas: what ships passes them, what is no regular file is refused at once, and nothing else needs pydantic."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

import vtokens
from tests.families import build
from vtokens.eval import manifest
from vtokens.filter import saved as filters
from vtokens.filter.calibrators import records
from vtokens.filter.calibrators.calibrator import Calibrator
from vtokens.filter.datasets.output_log import OutputLog
from vtokens.loading import saved
from vtokens.schemas import KINDS, check, load
from vtokens.tables import patterns, sinks, thresholds

PACKAGE = Path(vtokens.__file__).parent
SHIPPED = [
    (path, kind)
    for folder, kind in (
        ("tables/sinks", "sinks"),
        ("tables/thresholds", "thresholds"),
        ("tables/patterns", "patterns"),
        ("tables/choices", "choices"),
        ("filter/calibrators", "filter"),
    )
    for path in sorted((PACKAGE / folder).glob("*.json"))
]


@pytest.mark.parametrize(("path", "kind"), SHIPPED, ids=lambda part: getattr(part, "name", part))
def test_what_ships_passes(path, kind):
    assert load(path, kind) == json.loads(path.read_text())


def test_every_folder_of_tables_is_looked_at():
    assert {kind for _, kind in SHIPPED} == {"sinks", "thresholds", "patterns", "choices", "filter"}
    models = {path.relative_to(PACKAGE).parts[:2] for path in PACKAGE.rglob("*.json")}
    known = {path.relative_to(PACKAGE).parts[:2] for path, _ in SHIPPED}
    assert models - known == {("scenes", "weights"), ("eval", "presets")}  # transformers' own files


READERS = {
    "sinks": sinks.read,
    "thresholds": thresholds.read,
    "patterns": patterns.read,
    "calibrator": Calibrator.load,
    "filter": filters.read_filter,
    "record": lambda path: list(records.read(path)),
}


@pytest.mark.parametrize("kind", READERS)
def test_devices_and_folders_are_refused_at_once(kind, tmp_path):
    folder = "No such file .*filter.safetensors" if kind == "filter" else "is a folder, and a regular file is needed"
    for path, says in (("/dev/zero", "is a device, and a regular file is needed"), (tmp_path, folder)):
        begin = time.perf_counter()
        with pytest.raises((ValueError, OSError), match=says):  # a filter may be a folder, and this one is empty
            READERS[kind](path)
        assert time.perf_counter() - begin < 1


def test_files_beside_others_are_regular_too(tmp_path):
    for name, read in (
        ("manifest.json", manifest.read),
        ("o.settings.json", lambda folder: OutputLog(folder / "o.jsonl", {})),
        ("o.jsonl", lambda folder: OutputLog(folder / "o.jsonl", {})),
    ):
        (tmp_path / "o.settings.json").write_text("{}\n") if name == "o.jsonl" else None
        (tmp_path / name).unlink(missing_ok=True)
        (tmp_path / name).symlink_to("/dev/zero")
        begin = time.perf_counter()
        with pytest.raises((ValueError, OSError), match="is a device, and a regular file is needed"):
            read(tmp_path)
        assert time.perf_counter() - begin < 2
        (tmp_path / name).unlink()


def test_sinks_beyond_the_decoder_are_refused_at_attach(tmp_path):
    model = build("llava")[0]
    with pytest.raises(ValueError, match=r"are not known|holds the sink dimensions"):
        vtokens.attach(model, "var")
    sinks.Sinks("llama-x", (1,), 20.0, "a test").save(tmp_path / "s.json")
    with pytest.raises(ValueError, match="dimensions of the decoder 'llama-x', this one is '") as told:
        vtokens.attach(model, f"var(sinks={str(tmp_path / 's.json')!r})")
    decoder = str(told.value).split("this one is '")[1].split("'")[0]
    width = model.config.get_text_config().hidden_size
    for dim in (width, 2**19):
        sinks.Sinks(decoder, (0, dim), 20.0, "a test").save(tmp_path / "s.json")
        with pytest.raises(ValueError, match=rf"names the dimension {dim}: the states of this decoder have {width}"):
            vtokens.attach(model, f"var(sinks={str(tmp_path / 's.json')!r})")
    sinks.Sinks(decoder, (0, width - 1), 20.0, "a test").save(tmp_path / "s.json")
    vtokens.attach(model, f"var(sinks={str(tmp_path / 's.json')!r})").detach()


def test_unknown_kinds_are_named():
    with pytest.raises(ValueError, match=r"unknown kind of file 'sink'. Did you mean 'sinks'"):
        check({}, "sink")
    for kind in KINDS:
        with pytest.raises(ValueError, match=r"should be|is missing"):
            check(None, kind)


def test_without_pydantic_only_users_files_cannot_be_read(tmp_path):
    """What ships is known, a saved strategy is read, and a table of one's own names the extra."""
    sinks.Sinks("llama-x", (1,), 20.0, "a test").save(tmp_path / "s.json")
    saved.save_pretrained("fastv(keep=0.25)", tmp_path)
    script = f"""
import sys
sys.modules["pydantic"] = None
import vtokens
from vtokens.tables import sinks, patterns, thresholds
model, _ = vtokens.load("scenes-llava", strategy="dymu+var")
assert vtokens.from_pretrained({str(tmp_path)!r})[0].keep == 0.25
try:
    sinks.read({str(tmp_path / "s.json")!r})
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "reading a file of the kind 'sinks' needs pydantic" in done.stdout
    assert "vtokens[filter]" in done.stdout
