"""A data set made to break the filter: nothing is lost, nothing outside is opened, nothing that is read is written."""

import json
import os
import subprocess
import sys
import time

import pytest

from tests.filter.filtering import PROMPT, data_set, filtered, lines, made
from vtokens import HallucinationFilter, scenes
from vtokens.cli import main
from vtokens.filter.datasets.bounds import TEXT
from vtokens.filter.datasets.dataset import check_apart, check_files
from vtokens.filter.datasets.worker import Worker

FLAG = {"action": "flag", "threshold": 0.5}


@pytest.fixture(scope="module")
def hf():
    return made()


@pytest.fixture
def source(tmp_path):
    return data_set(tmp_path / "data", rows=3)


def test_poisoned_rows_are_set_aside_and_the_rest_is_done(source, tmp_path, hf):
    good = source.read_text().splitlines()[0].replace("row 0", "row 9")
    poison = [
        good[:-1] + ', "score": 1e999}', good[:-1] + ', "score": NaN}', good[:-1] + rf', "more": "{chr(92)}ud800"}}',
        good[:-1] + ', "deep": ' + "[" * 5000 + "]" * 5000 + "}", good[:-1] + f', "n": {"9" * 5000}}}',
        good[:-1] + ', "image": "0.png"}', json.dumps({"image": "0.png", "caption": "red circle, " * 5000}),
        json.dumps({"image": "a\0b.png", "caption": "red circle"}), json.dumps({"image": "x/" * 3000, "caption": "a"}),
    ]  # fmt: skip
    with source.open("a") as file:
        file.write("".join(text + "\n" for text in [*poison, good]))
    for _ in range(2):  # the second time it is gone on with
        tally = filtered(source, tmp_path / "out.jsonl", hf, **FLAG)
        assert [row["filter"]["line"] for row in lines(tmp_path / "out.jsonl")] == [1, 2, 3, 13]
        aside = lines(tmp_path / "out.rejected.jsonl")
        assert [row["line"] for row in aside] == list(range(4, 13))
        assert [row["raw"] for row in aside] == poison
        assert sum(tally.refused.values()) == 9


def test_pictures_outside_of_the_folder_are_not_opened(source, tmp_path, hf):
    folder = source.parent
    (tmp_path / "secret.png").write_bytes((folder / "0.png").read_bytes())
    (folder / "link.png").symlink_to("../secret.png")
    (folder / "near.png").symlink_to("0.png")
    (folder / "round.png").symlink_to("round.png")
    names = ["../secret.png", str(tmp_path / "secret.png"), "link.png"]
    inside = ["near.png", "../data/0.png", str(folder / "0.png")]
    with source.open("w") as file:
        for name in [*names, *inside, "round.png"]:
            file.write(json.dumps({"image": name, "caption": "red circle"}) + "\n")
    tally = filtered(source, tmp_path / "out.jsonl", hf, **FLAG)
    assert tally.refused == {"the image is not allowed": 3, "the image does not open": 1}
    aside = lines(tmp_path / "out.rejected.jsonl")
    assert [row["line"] for row in aside] == [1, 2, 3, 7]
    assert all("lies outside of" in row["reason"] and "--allow-outside" in row["reason"] for row in aside[:3])
    worker = Worker(hf, folder, **FLAG, allow_outside=True)
    tally = filtered(source, tmp_path / "out.jsonl", work=lambda batches: map(worker, batches), retry=True, **FLAG)
    assert tally.rows == 6


def test_pipes_are_named_at_once(source, tmp_path, hf):
    os.mkfifo(source.parent / "pipe.png")
    with source.open("a") as file:
        file.write(json.dumps({"image": "pipe.png", "caption": "red circle"}) + "\n")
    begin = time.perf_counter()
    filtered(source, tmp_path / "out.jsonl", hf, **FLAG)
    assert "is a named pipe, and a regular file is needed" in lines(tmp_path / "out.rejected.jsonl")[0]["reason"]
    os.mkfifo(tmp_path / "pipe")
    for arguments in (
        (tmp_path / "pipe", source.parent, tmp_path / "new.jsonl", "flag"),
        (source, source.parent, tmp_path / "pipe", "flag"),
        (source, source.parent, "/dev/null", "flag"),
    ):
        with pytest.raises(OSError, match="and a regular file is needed"):
            check_files(*arguments)
    for command in (["check", str(tmp_path / "pipe"), "a dog"], ["run", str(tmp_path / "pipe"), "what?"]):
        with pytest.raises(SystemExit) as stop:
            main(command)
        assert stop.value.code == 2
    assert time.perf_counter() - begin < 30


@pytest.mark.parametrize("name", ["z.jsonl", "z.settings.json", "z.rejected.jsonl", ".z.jsonl.lock"])
@pytest.mark.parametrize("way", ["plain", "symbolic", "hard", "dotted"])
def test_what_is_read_is_never_written(source, tmp_path, hf, name, way):
    text = source.read_text()
    target, given = tmp_path / name, source
    if way == "symbolic":
        target.symlink_to(source)
    elif way == "hard":
        target.hardlink_to(source)
    else:
        source.rename(target)
        given = target if way == "plain" else target.parent / "data" / ".." / name
    with pytest.raises(ValueError, match="is the input: give another output"):
        check_files(given, source.parent, tmp_path / "z.jsonl", "flag")
    with pytest.raises(ValueError, match="is the input: give another output"):
        filtered(given, tmp_path / "z.jsonl", hf, work=lambda batches: [], **FLAG)
    assert given.read_text() == text


def test_files_that_are_written_are_apart(source, tmp_path):
    check_apart(source, tmp_path / "z.jsonl", tmp_path / "filter.json")
    with pytest.raises(ValueError, match=r"z\.settings\.json, the file of settings, is the input"):
        check_apart(source, tmp_path / "z.jsonl", tmp_path / "z.settings.json")
    (tmp_path / "z.rejected.jsonl").symlink_to("z.jsonl")
    with pytest.raises(ValueError, match=r"is the same file as .*z\.jsonl, the output"):
        check_apart(source, tmp_path / "z.jsonl")


def test_settings_of_somebody_else_are_not_replaced(source, tmp_path, hf):
    for text in ('{"precious": 1}', "precious", "[1]"):
        (tmp_path / "z.settings.json").write_text(text)
        with pytest.raises(ValueError, match=r"not from this command|is not the settings"):
            filtered(source, tmp_path / "z.jsonl", hf, **FLAG)
        assert (tmp_path / "z.settings.json").read_text() == text
        assert not (tmp_path / "z.jsonl").exists()


def test_a_filter_that_finds_nothing_says_so(source, tmp_path, capsys):
    def run(*more):
        files = ["--input", source, "--images", source.parent, "--output", tmp_path / f"{len(more)}.jsonl"]
        main(["filter", *map(str, files), "--filter", "none", *more])

    with pytest.raises(SystemExit) as stop:
        run("--extractor", "chunks")  # which needs function words, and these captions have none
    assert stop.value.code == 3
    err = capsys.readouterr().err
    assert "in 3 of 3 rows nothing was found that could be judged" in err
    assert "--extractor names what finds mentions (chunks, coco, " in err
    assert len(lines(tmp_path / "2.jsonl")) == 3
    run()
    err = capsys.readouterr().err
    assert "nothing was found" not in err
    assert "scores that rank and no probabilities" in err


def test_long_texts_are_refused_before_they_are_looked_at(hf):
    """The context holds 1,024 tokens; finding the mentions of so long a text took minutes."""
    image = scenes.examples("test", n=1)[0].image
    for text, why in (("red circle, " * 4000, "the model's context holds 1024"), ("x" * (TEXT + 1), "is too long")):
        begin = time.perf_counter()
        with pytest.raises(ValueError, match=why):
            hf.check(image, PROMPT, text)
        assert time.perf_counter() - begin < 5
    assert isinstance(hf, HallucinationFilter)


def test_a_caption_of_50_mb_is_set_aside(source, tmp_path):
    with source.open("a") as file:
        file.write(json.dumps({"image": "0.png", "caption": "red circle, " * 4_000_000}) + "\n")
    files = ["--input", source, "--images", source.parent, "--output", tmp_path / "o.jsonl", "--threshold", "0.5"]
    done = subprocess.run(
        [sys.executable, "-m", "vtokens", "filter", *map(str, files)], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert "the line is too long (1)" in done.stderr
    assert (tmp_path / "o.rejected.jsonl").stat().st_size < 3000
