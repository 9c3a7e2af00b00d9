"""`vtokens.compare` and `vtokens compare`: answers and tokens as attaching gives them, pictures, the page, errors."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vtokens
from tests.eval import avi
from tests.eval.browser import opened
from tests.families import build, image
from tests.test_cli import failure
from vtokens import scenes
from vtokens.cli import main
from vtokens.core.prompts import encode_prompts, question_prompt
from vtokens.report.compare import Comparison


@pytest.fixture(scope="module")
def example() -> Any:
    return scenes.examples("test", n=1, kinds=["where"], seed=3)[0]


@pytest.fixture(scope="module")
def embedded() -> tuple[Any, Any]:
    model, processor = vtokens.load("scenes-llava", strategy="none")
    vtokens.detach(model)
    return model, processor


@pytest.fixture(scope="module")
def found(embedded: tuple[Any, Any], example: Any) -> Comparison:
    return vtokens.compare(*embedded, example.image, example.question, "cls, fastv(layer=1)", [0.25, 9])


@torch.no_grad()
def test_rows_are_what_attaching_gives(embedded: tuple[Any, Any], example: Any, found: Comparison) -> None:
    """The plain model first, then each strategy with each keep: its answer, its tokens, and what it kept is bright."""
    model, processor = embedded
    titles = ["unpruned", "cls, keep 0.25", "cls, keep 9", "fastv(layer=1), keep 0.25", "fastv(layer=1), keep 9"]
    assert [row.title for row in found.rows] == titles
    specs = ["none", "cls(keep=0.25)", "cls(keep=9)", "fastv(keep=0.25, layer=1)", "fastv(keep=9, layer=1)"]
    batch = encode_prompts(processor, [question_prompt(processor, example.question)], [[example.image]])
    for row, spec in zip(found.rows, specs, strict=True):
        with vtokens.attach(model, spec) as handle:
            tokens = model.generate(**batch, do_sample=False, max_new_tokens=64)[:, batch["input_ids"].shape[1] :]
            [sample] = handle.report().samples
        assert row.answer == processor.batch_decode(tokens, skip_special_tokens=True)[0].strip()
        assert (row.tokens, row.full) == (sample.average_tokens, 144)
        assert row.first_token > 0
        assert row.first_token_full == found.rows[0].first_token
    light = np.asarray(found.rows[2].drawn[0], dtype=float).reshape(12, 40, 12, 40, 3).mean((1, 3, 4))
    whole = np.asarray(found.rows[0].drawn[0], dtype=float).reshape(12, 40, 12, 40, 3).mean((1, 3, 4))
    kept = np.isclose(light, whole).flatten().nonzero()[0]
    with vtokens.attach(model, "cls(keep=9)") as handle:
        model(**batch)
        expected = handle.report().samples[0].pictures[0].kept[0]
    assert kept.tolist() == expected.tolist()
    assert vtokens.attachment(model) is None


def test_the_page_is_complete_and_escapes(found: Comparison, tmp_path: Path) -> None:
    """A picture a card, nothing from elsewhere, and what was asked is text."""
    page = dataclasses.replace(found, question="<script>alert(1)</script>").html()
    assert "<script" not in page
    assert len(re.findall(r'<img src="data:image/webp;base64,', page)) == len(found.rows)
    assert "http" not in page
    assert all(row.title in page for row in found.rows)
    assert found._repr_html_() in found.html()
    found.save(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == found.html()
    assert "cls, keep 9" in str(found)
    assert repr(found) == f"<Comparison of 4 row(s) with the plain model: {found.question!r}>"


def test_the_page_in_a_browser(found: Comparison, browser: Any, tmp_path: Path) -> None:
    """Every picture is shown, nothing is wider than the window, and nothing is complained about or asked for."""
    found.save(tmp_path / "page.html")
    for width, scheme in ((1280, "light"), (360, "dark")):
        with opened(browser, tmp_path / "page.html", width, scheme) as seen:
            assert seen.run("[...document.images].every(one => one.complete && one.naturalWidth >= 400)")
            assert seen.run("document.documentElement.scrollWidth <= innerWidth")
            assert seen.run("document.querySelectorAll('article').length") == len(found.rows)
            assert seen.complaints == []
            assert seen.requests == [(tmp_path / "page.html").as_uri()]


def test_several_pictures_and_pictures_in_tiles() -> None:
    """Each picture is drawn by itself; where tiles lay the model is not told, which the page says."""
    model, processor = build("llava")
    two = [image(60, 60, seed=0), image(60, 60, seed=1)]
    rows = vtokens.compare(model, processor, two, "Which?", ["uniform"], 4, max_new_tokens=2).rows
    assert [len(row.drawn) for row in rows] == [2, 2]
    assert rows[1].tokens == 8
    assert np.asarray(rows[1].drawn[0]).mean() < np.asarray(rows[0].drawn[0]).mean()
    model, processor = build("idefics3")
    found = vtokens.compare(model, processor, image(90, 60, seed=0), "Which?", ["uniform"], 0.5, max_new_tokens=2)
    if found.rows[1].untold:
        assert "cut" in found.rows[1].untold
        assert "Not drawn: " in found.html()


def test_what_is_compared_without_being_named() -> None:
    """What the model takes with its defaults: nothing inside of a decoder that has no visual tokens in its sequence."""
    model, processor = build("mllama")
    rows = vtokens.compare(model, processor, image(60, 60, seed=0), "Which?", max_new_tokens=1).rows
    assert [row.title.partition(",")[0] for row in rows] == ["unpruned", "random", "uniform", "cls"]


def test_what_cannot_be_compared_is_refused() -> None:
    model, processor = build("llava")
    picture = image(60, 60, seed=0)
    for names, reason in (("cls,fastw", "Did you mean 'fastv'"), ("evs", "video"), (["cls(keep=2.0)"], "keep")):
        with pytest.raises(ValueError, match=reason):
            vtokens.compare(model, processor, picture, "Which?", names)
    with pytest.raises(ValueError, match="at least one is needed"):
        vtokens.compare(model, processor, [], "Which?")
    with pytest.raises(TypeError, match="int is no picture"):
        vtokens.compare(model, processor, [3], "Which?")
    with pytest.raises(ValueError, match="the question is empty"):
        vtokens.compare(model, processor, picture, " ")
    with vtokens.attach(model, "cls"), pytest.raises(ValueError, match="'cls' is attached to the model: detach it"):
        vtokens.compare(model, processor, picture, "Which?")


def test_the_command(capsys: Any, example: Any, tmp_path: Path) -> None:
    """It writes the page and tells the same in a line each; what is wrong is one line, before any model is loaded."""
    scene, page = tmp_path / "scene.png", tmp_path / "page.html"
    example.image.save(scene)
    main(["compare", str(scene), example.question, "--strategies", "cls", "--keep", "0.25,0.1", "--out", str(page)])
    out = capsys.readouterr().out
    assert out.count("cls, keep") == 2
    assert out.splitlines()[-1] == f"side by side: {page}"
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert "Did you mean 'fastv'" in failure(capsys, "compare", str(scene), "q", "--strategies", "fastw")
    twice = failure(capsys, "compare", str(tmp_path / "none.png"), "q", "--strategies", "cls,fastv, cls")
    assert "the strategy 'cls' is asked for twice: each strategy is allowed once" in twice
    assert "the keep 0.25 is asked" in failure(capsys, "compare", str(tmp_path / "none.png"), "q", "--keep", "0.25,.25")
    assert "none.png" in failure(capsys, "compare", str(tmp_path / "none.png"), "q")
    assert "cannot be written" in failure(capsys, "compare", str(scene), "q", "--out", str(tmp_path / "no" / "a.html"))
    clip = avi.write(tmp_path / "clip.avi", [np.full((32, 32, 3), 40 * n, dtype=np.uint8) for n in range(3)])
    assert "is a video" in failure(capsys, "compare", str(clip), "q")
