"""Tiles of one image are one picture: a budget is the picture's, and beams and negative prompts find it too."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import vtokens
from tests.engine.cases import model
from tests.families import image as picture
from tests.families import inputs

pytestmark = pytest.mark.parametrize("family", ["internvl", "ovis2"])
PROMPTS = ["Look: <image> what is this?", "Compare <image><image> please", "hello"]


@pytest.fixture(autouse=True)
def _no_grad() -> Any:
    with torch.no_grad():
        yield


def ragged(family: str, side: str = "left") -> dict[str, Any]:
    """Images of several tiles and of one, two of them side by side."""
    groups = [[picture(100, 60, seed=0)], [picture(150, 50, seed=1), picture(60, 60, seed=2)], []]
    return dict(inputs(family, PROMPTS, groups, side))  # type: ignore[arg-type]


def tokens(report: vtokens.Report) -> list[list[int]]:
    """The tokens of each picture of each row."""
    return [[part.picture.tokens for part in sample.pictures] for sample in report.samples]


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_budget_is_a_pictures(family: str, side: str) -> None:
    target, batch = model(family, "pruned"), ragged(family, side)
    with vtokens.attach(target, "cls(keep=3)") as handle:
        target(**batch)
        report = handle.report()
    sizes = tokens(report)
    assert [len(row) for row in sizes] == [1, 2, 0]
    assert sum(map(sum, sizes)) == 4 * len(batch["pixel_values"])
    assert sizes[0][0] > 4
    assert sizes[1][1] == 4
    for sample in report.samples:
        assert [len(part.kept[0]) for part in sample.pictures] == [3] * len(sample.pictures)
        for part in sample.pictures:  # each tile is a view
            assert [grid == (1, 2, 2) for grid in part.picture.grids] == [True] * (part.picture.tokens // 4)


@pytest.mark.parametrize("options", [{"num_beams": 3}, {"num_return_sequences": 2, "do_sample": True}])
def test_copies_of_a_row_have_its_pictures(family: str, options: dict[str, Any]) -> None:
    target, batch = model(family, "pruned"), ragged(family)
    with vtokens.attach(target, "cls(keep=3)") as handle:
        target(**batch)
        alone = handle.report()
        target.generate(**batch, **options, max_new_tokens=2)
        copied = handle.report()
    copies = len(copied.samples) // 3
    assert copies > 1
    for row, sample in enumerate(copied.samples):
        assert sample.positions[-1].tolist() == alone.samples[row // copies].positions[-1].tolist()


def test_another_prompt_has_the_same_pictures(family: str) -> None:
    target, batch = model(family, "pruned"), ragged(family)
    groups = [[picture(100, 60, seed=0)], [picture(150, 50, seed=1), picture(60, 60, seed=2)], []]
    other = dict(inputs(family, ["<image> Not?", "<image> or <image>", "no"], groups))
    given = {name: other[name] for name in ("input_ids", "attention_mask")}
    options = {"max_new_tokens": 3, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    with vtokens.attach(target, "cls(keep=3)+lqcd(alpha=1.0)") as handle, handle.negative_prompt(**given):
        changed = target.generate(**batch, **options)
    with vtokens.attach(target, "cls(keep=3)"):
        plain = target.generate(**batch, **options)
    assert (changed.logits[0] - plain.logits[0]).abs().max() > 1e-3
