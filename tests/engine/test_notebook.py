"""How a handle and its report show in a notebook and at a prompt: a table and grids, and never an array."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
import torch

import vtokens
from tests.engine.cases import inputs, model
from tests.engine.compare import ragged
from tests.families import image
from vtokens.core.notebook import grid, table


class Shown(HTMLParser):
    """What a reader of HTML sees: the texts of elements by tag, and the fills of paths."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.paths: list[dict[str, Any]] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "path":
            self.paths.append(dict(attrs))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self.open[-1] if self.open else "", []).append(data)


def painted(path: str, shape: tuple[int, int]) -> np.ndarray:
    """(h, w) bool: the cells that a path of `grid` covers, read from its text."""
    found = np.zeros(shape, dtype=bool)
    for part in path.split("Z")[:-1]:
        start, rest = part[1:].split("H", 1)
        x, y = map(int, start.split())
        found[y, x : int(rest.split("V")[0])] = True
    return found


@torch.no_grad()
@pytest.mark.parametrize("spec", ["cls(keep=0.5)+fastv(keep=0.5, layer=2)", "uniform(keep=0.25)"])
def test_a_report_shows_its_layers_and_the_kept_patches(spec: str) -> None:
    """The grids hold the cells that each layer saw, and the table the tokens that the report counts."""
    target = model("llava", "pruned")
    with vtokens.attach(target, spec) as handle:
        assert "no pictures yet" in handle._repr_html_()
        target(**ragged("llava"))
        report = handle.report()
        shown = Shown(report._repr_html_())
        Shown(handle._repr_html_())
    pictures = [kept for sample in report.samples for kept in sample.pictures]
    assert len(shown.texts["title"]) == len(pictures)
    cells = shown.texts["td"]
    for count in {sum(layer) for layer in zip(*(s.visual_tokens for s in report.samples), strict=True)}:
        assert str(count) in cells
    drawn = {path["fill-opacity"] for path in shown.paths}
    for kept in pictures:
        seen = sum(np.isin(np.arange(len(kept.picture)), layer).astype(int) for layer in kept.kept)
        assert {f"{share:.3g}" for share in np.unique(seen / len(kept.kept)) if share} <= drawn


@torch.no_grad()
@pytest.mark.parametrize("family", ["llava_next", "qwen2_vl"])
def test_kept_patches_stand_where_the_picture_has_them(family: str) -> None:
    """Cell by cell, in grids higher than wide and wider than high: the share of layers that saw the patch there."""
    target = model(family, "pruned")
    groups = [[image(112, 224, seed=0)], [image(260, 84, seed=1)]]
    with vtokens.attach(target, "uniform(keep=0.3)+fastv(keep=0.5, layer=2)") as handle:
        target(**inputs(family, ["What is this?", "And where?"], groups))
        report = handle.report()
    pictures = [kept for sample in report.samples for kept in sample.pictures]
    drawings = report._repr_html_().split("<svg")[1:]
    assert len(drawings) == sum(len(kept.picture.grids) for kept in pictures)
    shapes = []
    for kept in pictures:
        places = [*zip(kept.picture.view, kept.picture.y, kept.picture.x, strict=True)]
        for view, (_, h, w) in enumerate(kept.picture.grids):
            drawing, want = drawings.pop(0), np.zeros((h, w))
            for layer in kept.kept:
                for position in layer.tolist():
                    if places[position][0] == view:
                        want[places[position][1], places[position][2]] += 1 / len(kept.kept)
            found = np.zeros((h, w))
            for path in Shown(f"<svg{drawing.partition('</svg>')[0]}</svg>").paths:
                found[painted(path["d"], (h, w))] += float(path["fill-opacity"])
            np.testing.assert_allclose(found, want, atol=5e-4)  # opacities have three digits
            width, height = re.search(r'width="(\d+)" height="(\d+)"', drawing).groups()
            assert np.isclose(int(width) / int(height), w / h, rtol=0.02)
            shapes.append((h, w))
    assert any(h > w for h, w in shapes)
    assert any(h < w for h, w in shapes)


@torch.no_grad()
def test_reprs_are_short_and_hold_no_array() -> None:
    """At a prompt each object takes one line, however many positions it holds."""
    target = model("llava", "pruned")
    with vtokens.attach(target, "uniform(keep=0.5)") as handle:
        target(**ragged("llava"))
        report = handle.report()
    kept = next(kept for sample in report.samples for kept in sample.pictures)
    for thing in (handle, report, report.samples, kept, kept.picture):
        assert "array(" not in repr(thing)
        assert "\n" not in repr(thing)
    assert len(repr(report)) < 120


def test_a_grid_paints_each_level_once() -> None:
    """The paths of a grid cover the cells of their level and no others, in any drawn grid."""
    draw = np.random.default_rng(0)
    for _ in range(50):
        shape = (int(draw.integers(1, 9)), int(draw.integers(1, 9)))
        share = draw.integers(0, 3, shape) / 2
        paths = Shown(grid(share, "x")).paths
        for path in paths:
            assert (painted(path["d"], shape) == (share == float(path["fill-opacity"]))).all()
        assert len(paths) == len(np.unique(share[share > 0]))


def test_tables_show_markup_as_text() -> None:
    """What looks like HTML is text in it."""
    shown = Shown(table(("<b>",), [("<script>alert(1)</script>",)]))
    assert shown.texts == {"th": ["<b>"], "td": ["<script>alert(1)</script>"]}
