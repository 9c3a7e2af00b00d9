"""What is written takes the place of what was there in one step, whoever else writes, and leaves nothing beside it."""

import ast
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import vtokens
from vtokens.core.writing import clear_drafts, fresh, replacing, write_json, write_text

PACKAGE = Path(vtokens.__file__).parent


def test_writers_at_once_leave_the_whole_file_of_one(tmp_path):
    path, whole = tmp_path / "table.json", [str(number) * 200_000 for number in range(8)]
    seen, stop = set(), threading.Event()

    def look():
        while not stop.is_set():
            if path.exists():
                seen.add(path.read_text())

    watcher = threading.Thread(target=look)
    watcher.start()
    writers = [threading.Thread(target=write_text, args=(path, text)) for text in whole]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    stop.set()
    watcher.join()
    assert path.read_text() in whole
    assert seen <= {*whole}
    assert os.listdir(tmp_path) == ["table.json"]


def test_writers_inside_each_other_do_not_share_a_draft(tmp_path):
    path = tmp_path / "a"
    with replacing(path) as first:
        first("one")
        with replacing(path) as second:
            second("two")
        assert path.read_text() == "two"
    assert path.read_text() == "one"


def test_what_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, [1])

    def interrupted():
        with replacing(path) as write:
            write("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(path, [float("nan")])
    assert path.read_text() == "[\n  1\n]\n"
    assert os.listdir(tmp_path) == ["a.json"]


def test_what_a_killed_writer_left_can_be_cleared(tmp_path):
    """Its drafts of one file alone, though names of others begin alike or look like patterns."""
    code = """if True:
        import os, sys
        from vtokens.core.writing import replacing
        with replacing(sys.argv[1]) as write:
            write("half")
            os._exit(9)
    """
    for name in ("[a].jsonl", "[a].jsonl.b", "a.jsonl"):
        assert subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], check=False).returncode == 9
    before = os.listdir(tmp_path)
    assert len(before) == 3
    clear_drafts(tmp_path / "[a].jsonl")
    assert {*before} - {*os.listdir(tmp_path)} == {one for one in before if one.count(".") == 4 and "[a]" in one}


def test_modes_and_links_stay(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "new", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
    (tmp_path / "new").chmod(0o604)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link").symlink_to("../new")
    write_text(tmp_path / "folder" / "link", "y")
    assert (tmp_path / "folder" / "link").is_symlink()
    assert (tmp_path / "new").read_text() == "y"
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o604
    (tmp_path / "loose").symlink_to("later")
    write_text(tmp_path / "loose", "z")
    assert (tmp_path / "later").read_text() == "z"
    write_text(tmp_path / ("ü" * 120), "a name nearly as long as names can be")


def test_pipes_and_folders_are_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, kind in ((tmp_path / "pipe", "named pipe"), (tmp_path, "folder"), ("/dev/null", "device")):
        with pytest.raises(OSError, match=f"is a {kind}, and a regular file is needed"), fresh(path):
            pass
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert os.listdir(tmp_path) == ["pipe"]


def test_every_file_is_written_that_way():
    """No module opens a file to write it from scratch, or lets another library do so, but the one that makes drafts."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        where = path.relative_to(PACKAGE).as_posix()
        if where == "core/writing.py" or where.startswith(("scenes/train/", "eval/tasks/")):  # folders of their own
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            given = [*node.args, *(keyword.value for keyword in node.keywords)]
            modes = [one.value for one in given if isinstance(one, ast.Constant) and isinstance(one.value, str)]
            if (name == "open" and any(mode.rstrip("bt+") in ("w", "x") for mode in modes)) or (
                name in ("write_text", "write_bytes") and isinstance(node.func, ast.Attribute)
            ):
                found.append(f"{where}:{node.lineno}")
    assert not found
