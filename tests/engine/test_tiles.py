"""Tiles of one image are one picture: a budget is the picture's, and beams and negative prompts find it too."""

from __future__ import annotations

from typing import Any

import pytest

import vtokens
from tests.engine.cases import model
from tests.families import ALL, inputs
from tests.families import image as picture
from vtokens.adapters import adapter_for

pytestmark = [
    pytest.mark.parametrize(
        "family",
        ["internvl", "ovis2", "cohere2_vision", "aya_vision", "idefics3", "smolvlm", *({"llama4"} & {*ALL})],
    ),
    pytest.mark.usefixtures("no_grad"),
]
PROMPTS = ["Look: <image> what is this?", "Compare <image><image> please", "hello"]


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
    tiles = adapter_for(target).pictures("image", batch)
    views = [[len(part.picture.grids) for part in sample.pictures] for sample in report.samples]
    assert [len(row) for row in views] == [1, 2, 0]
    assert sum(map(sum, views)) == len(tiles)
    assert min(views[0][0], views[1][0]) > 1
    assert views[1][1] == whole(family)
    for sample in report.samples:
        assert [len(part.kept[0]) for part in sample.pictures] == [3] * len(sample.pictures)
        for part in sample.pictures:  # each tile is a view
            assert {*part.picture.grids} == {*tiles[0].grids}


@pytest.mark.parametrize("side", ["left", "right"])
def test_images_side_by_side_stay_apart(family: str, side: str) -> None:
    """Whether text stands between them or none, in rows of any number of them; embeddings tell it as tokens do."""
    target = model(family, "pruned")
    shown = [picture(100, 60, seed=0), picture(60, 60, seed=1), picture(150, 50, seed=2)]
    prompts = ["<image><image><image>", "On <image>\n<image> and so on <image>?", "<image>"]
    batch = dict(inputs(family, prompts, [shown, shown, shown[:1]], side))  # type: ignore[arg-type]
    embedded = batch | {"inputs_embeds": target.get_input_embeddings()(batch["input_ids"])}
    # Llama 4 itself takes no embeddings beside pictures.
    fed = [batch] if family in ("ovis2", "llama4") else [batch, embedded]
    for given in fed:
        given = {name: value for name, value in given.items() if name != "input_ids" or "inputs_embeds" not in given}
        with vtokens.attach(target, "cls(keep=3)") as handle:
            target(**given)
            report = handle.report()
        sizes = tokens(report)
        assert sizes[0] == sizes[1]
        assert sizes[0][:1] == sizes[2]
        assert [len(row) for row in sizes] == [3, 3, 1]
        kept = [[len(part.kept[0]) for part in sample.pictures] for sample in report.samples]
        assert kept == [[3, 3, 3], [3, 3, 3], [3]]


def whole(family: str) -> int:
    """Tiles of a small square image."""
    square = dict(inputs(family, ["<image>"], [[picture(60, 60, seed=2)]]))
    return len(adapter_for(model(family, "pruned")).pictures("image", square))


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
