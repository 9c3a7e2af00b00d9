"""Batch answering on Ray: each row as the model answers it alone; rows that fail stand aside; killed runs go on."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import vtokens
from vtokens import scenes
from vtokens.core.prompts import encode_prompts, question_prompt
from vtokens.integrations.ray_answers import answer_file
from vtokens.integrations.ray_data import PIXELS, Answer, Decode, answer

SPEC = "cls(keep=0.25)+fastv(keep=0.5, layer=2)"
ray_smoke = [
    pytest.mark.slow,
    pytest.mark.ray_smoke,
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def examples() -> list[Any]:
    return scenes.examples("test", n=10, seed=4)


@pytest.fixture
def source(examples: list[Any], tmp_path: Path) -> Path:
    """Ten questions, and in the fourth line one about a picture that is not there."""
    rows = []
    for number, example in enumerate(examples):
        example.image.save(tmp_path / f"{number}.png")
        rows.append({"image": f"{number}.png", "prompt": example.question, "id": [number, None]})
    rows.insert(3, {"image": "none.png", "prompt": "Which?", "id": "x"})
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def expected(examples: list[Any]) -> list[tuple[str, float]]:
    """What the model says to each question by itself, and the tokens that a layer saw, averaged."""
    model: Any
    model, processor = vtokens.load("scenes-llava", SPEC)
    found = []
    handle: Any = vtokens.attachment(model)
    for example in examples:
        batch = encode_prompts(processor, [question_prompt(processor, example.question)], [[example.image]])
        tokens = model.generate(**batch, do_sample=False, max_new_tokens=64)[0, batch["input_ids"].shape[1] :]
        [sample] = handle.report().samples
        found.append((processor.decode(tokens, skip_special_tokens=True).strip(), sample.average_tokens))
    assert len({text for text, _ in found}) > 3
    return found


def lines(path: Path) -> list[dict[str, Any]]:
    return sorted(map(json.loads, path.read_text().splitlines()), key=lambda row: row["line"])


def png(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def test_a_batch_is_answered_as_its_rows_are_alone(examples: list[Any], expected: list[tuple[str, float]]) -> None:
    """Both stages, as Ray calls them: bytes in place of paths, a row that is no question, pictures that do not open."""
    rows: list[dict[str, Any]] = [{"image": png(one.image), "prompt": one.question, "n": 1} for one in examples[:5]]
    rows.insert(2, {"image": b"GIF89a", "prompt": "Which?", "n": 2})
    rows.append({"image": png(examples[0].image), "prompt": "a <image> b <image>", "n": 3})
    rows.append({"image": png(examples[0].image), "prompt": None, "n": 4})
    opened = [Decode()(row) for row in rows]
    assert all("image" not in row for row in opened)
    columns: dict[str, Any] = {}
    for name in opened[0]:
        columns[name] = np.array([row[name] for row in opened], dtype=None if name in ("n",) else object)
    found = Answer(strategy=SPEC)(columns)
    assert set(found) == {"prompt", "n", "answer", "image_tokens", "kept", "refused"}
    refused = [str(one) for one in found["refused"]]
    assert [bool(one) for one in refused] == [False, False, True, False, False, False, True, True]
    assert "does not open" in refused[2]
    assert "holds 2" in refused[6]
    assert refused[7] == "'prompt' is no text"
    good = [number for number, reason in enumerate(refused) if not reason]
    assert [(found["answer"][one], found["kept"][one]) for one in good] == expected[:5]
    assert {int(found["image_tokens"][one]) for one in good} == {144}


def test_pictures_are_opened_upright_small_enough_and_inside_of_their_folder(tmp_path: Path) -> None:
    turned, out = Image.Exif(), io.BytesIO()
    turned[0x0112] = 6
    Image.new("RGB", (40, 20), "red").save(out, "jpeg", exif=turned)
    (tmp_path / "a.jpg").write_bytes(out.getvalue())
    decode = Decode(str(tmp_path), most=800)
    row = decode({"image": "a.jpg", "prompt": "Which?"})
    assert (row["__height"], row["__width"], len(row[PIXELS]), row["refused"]) == (40, 20, 2400, "")
    Image.new("RGB", (40, 21)).save(tmp_path / "b.png")
    for image, reason in (("b.png", "40 x 21 pixels"), ("../a.jpg", "outside"), (3, "neither a path nor")):
        assert reason in decode({"image": image, "prompt": "Which?"})["refused"]


def test_what_cannot_be_is_refused_before_a_cluster_is_asked() -> None:
    nothing: Any = None
    with pytest.raises(ValueError, match="Did you mean 'fastv'"):
        answer(nothing, strategy="fastw")
    with pytest.raises(ValueError, match="workers=0 is not allowed"):
        answer(nothing, workers=0)
    with pytest.raises(ValueError, match="batch_size=0 is not allowed"):
        answer(nothing, batch_size=0)


def test_files_that_do_not_fit_are_refused(source: Path, tmp_path: Path) -> None:
    """No cluster is started for any of these."""
    with pytest.raises(ValueError, match="is the input"):
        answer_file(source, source)
    bad = tmp_path / "bad.jsonl"
    for text, reason in (
        ('{"image": "a"}', "no field 'prompt'"),
        ("[]", "list in place"),
        ("{", "line 1, is no question"),
    ):
        bad.write_text(text + "\n")
        with pytest.raises(ValueError, match=reason):
            answer_file(bad, tmp_path / "out.jsonl")
    bad.write_text('{"image": "a", "prompt": "b", "answer": 1}\n')
    with pytest.raises(ValueError, match="a field 'answer' already"):
        answer_file(bad, tmp_path / "out.jsonl")
    (tmp_path / "out.jsonl").write_text('{"x": 1}\n')
    with pytest.raises(ValueError, match="not from this function"):
        answer_file(source, tmp_path / "out.jsonl")


class TestOnACluster:
    """Slow: Ray starts processes, and each imports torch."""

    pytestmark = ray_smoke

    def test_a_file_is_answered_and_goes_on_where_it_was_killed(
        self, cluster: Any, source: Path, tmp_path: Path, expected: list[tuple[str, float]]
    ) -> None:
        out = tmp_path / "out.jsonl"
        settings: dict[str, Any] = {"folder": tmp_path, "strategy": SPEC, "batch_size": 4}
        counted: list[int] = []
        tally = answer_file(source, out, progress=counted.append, **settings)
        assert (tally.answered, tally.refused, tally.before, sum(counted)) == (10, 1, 0, 11)
        rows = lines(out)
        assert [(row["answer"], row["kept"]) for row in rows if not row["refused"]] == expected
        assert [row["id"] for row in rows] == [json.loads(line)["id"] for line in source.read_text().splitlines()]
        whole = out.read_bytes().splitlines(keepends=True)
        out.write_bytes(b"".join(whole[:6]) + whole[6][:9])  # killed in the middle of a line
        tally = answer_file(source, out, **settings, workers=2)
        assert (tally.answered, tally.refused, tally.before) == (10, 1, 6)
        assert lines(out) == rows
        with pytest.raises(ValueError, match="begun with other settings"):
            answer_file(source, out, **settings | {"strategy": "cls"})

    def test_a_worker_that_fails_says_why(self, cluster: Any, source: Path, tmp_path: Path) -> None:
        with pytest.raises(RuntimeError, match=r"a worker failed: .*no-such-model"):
            answer_file(source, tmp_path / "out.jsonl", model="no-such-model", folder=tmp_path)
