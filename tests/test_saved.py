"""Strategies saved beside a model: the folder round trip, and files that are missing, damaged or of another version."""

import json
from pathlib import Path

import pytest

import vtokens
from vtokens.loading.saved import FILE, from_pretrained, save_pretrained
from vtokens.strategies.prune.cls import Cls
from vtokens.strategies.prune.fastv import FastV
from vtokens.strategies.prune.todre import Todre


def test_round_trip(tmp_path: Path) -> None:
    """Whatever names strategies is saved with every field and read back the same; an older file is replaced."""
    folder = tmp_path / "deep" / "model"
    written = save_pretrained("cls(keep=0.5, layers=(-2, 1))+todre(exit_threshold=none)", folder)
    assert written == folder / FILE
    assert from_pretrained(folder) == (Cls(keep=0.5, layers=(-2, 1)), Todre(exit_threshold=None))
    content = json.loads(written.read_text(encoding="utf-8"))
    assert content["version"] == 1
    assert content["strategies"][0] == {
        "name": "cls", "keep": 0.5, "layers": [-2, 1], "positions": "original", "budget": "per_image", "of": "left",
    }  # fmt: skip
    save_pretrained(FastV(layer=3), str(folder))
    assert from_pretrained(str(folder)) == (FastV(layer=3),)
    save_pretrained(None, folder)
    assert from_pretrained(folder) == ()


def test_public_names() -> None:
    """Both are offered by the package itself."""
    assert vtokens.save_pretrained is save_pretrained
    assert vtokens.from_pretrained is from_pretrained


def test_nothing_is_written_for_a_bad_strategy(tmp_path: Path) -> None:
    """A typo is found before the folder is touched."""
    save_pretrained("fastv", tmp_path)
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(ValueError, match="Did you mean 'fastv'"):
        save_pretrained("fastvv", tmp_path)
    assert (tmp_path / FILE).read_bytes() == before
    with pytest.raises(ValueError, match="unknown strategy"):
        save_pretrained("nonesuch_at_all", tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", r"holds no vtokens\.json: save one with vtokens\.save_pretrained"),
        ("no-such-folder", "there is no folder .*no-such-folder"),
        ("no/such/folder/anywhere", "there is no folder .*has no 'no'"),
    ],
)
def test_missing(tmp_path: Path, name: str, says: str) -> None:
    """A folder without the file, and no folder at all: both say what was looked for and how to make one."""
    with pytest.raises(FileNotFoundError, match=says):
        from_pretrained(tmp_path / name)


def test_an_unreachable_hub_id_counts_as_missing() -> None:
    """Offline and not in the cache."""
    with pytest.raises(FileNotFoundError, match=r"no-one-at-all/no-such-model holds no vtokens\.json"):
        from_pretrained("no-one-at-all/no-such-model")


@pytest.mark.parametrize(
    "content",
    [
        "{", "", "[]", "3", '"fastv"', "{}", '{"version": 1}', '{"strategies": []}', "\x00\x01",
        '{"version": 1, "strategies": 5}', '{"version": 1, "strategies": [3]}', '{"version": 1, "strategies": null}',
    ],
)  # fmt: skip
def test_damaged(tmp_path: Path, content: str) -> None:
    """Whatever is not ours is refused with the file's name."""
    (tmp_path / FILE).write_text(content)
    with pytest.raises(ValueError, match=r"vtokens\.json is not a strategy saved by vtokens"):
        from_pretrained(tmp_path)


def test_damaged_bytes(tmp_path: Path) -> None:
    """Bytes that are no UTF-8."""
    (tmp_path / FILE).write_bytes(b'{"version": 1, "strategies": "\xff\xfe"}')
    with pytest.raises(ValueError, match="is not a strategy saved by vtokens"):
        from_pretrained(tmp_path)


def test_another_version_or_an_unknown_name(tmp_path: Path) -> None:
    """A later file says which version this one reads; an unknown strategy or field is named with the nearest."""
    path = tmp_path / FILE
    path.write_text('{"version": 2, "strategies": []}')
    with pytest.raises(ValueError, match=r"vtokens\.json has version 2; this vtokens reads version 1"):
        from_pretrained(tmp_path)
    path.write_text('{"version": 1, "strategies": [{"name": "fastw"}]}')
    with pytest.raises(ValueError, match="Did you mean 'fastv'"):
        from_pretrained(tmp_path)
    path.write_text('{"version": 1, "strategies": [{"name": "fastv", "layr": 3}]}')
    with pytest.raises(ValueError, match="Did you mean 'layer'"):
        from_pretrained(tmp_path)
