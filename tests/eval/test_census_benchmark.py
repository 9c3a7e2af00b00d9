"""`benchmarks/census.py`: paired differences over pictures, and the variants of census that it asks about."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

import vtokens
from benchmarks import census_page
from benchmarks.asking import called
from tests.limits import close
from tests.strategies.helpers import registry_restored
from tests.strategies.invariants import drawn, visuals
from vtokens.eval.metrics.paired import difference

with registry_restored():  # what they register is compared there alone
    from benchmarks.census import Asking, against_pruners, measured, paired, specs_there
    from benchmarks.census_variants import Kcenter, Variant


def test_differences_are_those_of_a_bootstrap_over_pictures() -> None:
    made = np.random.default_rng(3)
    a, b = made.random(120) < 0.8, made.random(120) < 0.6
    groups = [number // 2 for number in range(120)]
    found = paired(a.astype(float), b.astype(float), groups)
    ones = [1] * 120
    expected = difference((a, ones), (b, ones), groups=groups)
    assert expected is not None
    assert abs(found["difference"] - expected.value) < 1e-9
    assert abs(found["low"] - expected.low) + abs(found["high"] - expected.high) < 0.04
    assert found["p"] < 0.05
    assert paired(a.astype(float), a.astype(float), groups)["p"] == 1.0


def test_pruners_that_are_there_are_compared_with_and_without() -> None:
    specs = specs_there(["cls", "nobody_has_this"])
    assert specs == ["census", "cls", "cls+census"]
    assert against_pruners(specs) == [("census", "cls"), ("cls+census", "cls")]


def test_answers_of_several_models_are_compared_together(tmp_path: Path) -> None:
    """A folder is asked as an embedded model is; its rows bear its name, and differences pool what all answered."""
    model, processor = vtokens.load("scenes-llava")
    with torch.no_grad():
        model.lm_head.weight[5:9] *= 1.5
    model.save_pretrained(tmp_path / "another")
    processor.save_pretrained(tmp_path / "another")
    options = Namespace(questions=11, seeds=2, first_seed=7, keeps=[0.1], kinds=["exist", "where"], dtype="float32")
    options.batch_size, options.replies = 11, tmp_path / "replies"
    models = [Asking(options, *each) for each in called(["scenes-llava", str(tmp_path / "another")]).items()]
    found = measured(models, ["census", "random"], ["test"], lambda specs: [("census", "random")])
    assert [(row["model"], row["strategy"]) for row in found["rows"]] == [
        ("scenes-llava", "none"), ("another", "none"),
        *((name, spec) for name in ("scenes-llava", "another") for spec in ("census", "random")),
    ]  # fmt: skip
    right = {(row["model"], row["strategy"]): row["accuracy"]["correct"] for row in found["rows"]}
    [row] = found["compared"]
    gains = {name: right[name, "census"] - right[name, "random"] for name in ("scenes-llava", "another")}
    assert row["n"] == 44
    assert row["difference"] == pytest.approx(sum(gains.values()) / 44)
    assert row["by_model"] == pytest.approx({name: gain / 22 for name, gain in gains.items()})
    alone = measured(models[:1], ["census", "random"], ["test"], lambda specs: [("census", "random")])
    assert alone["compared"][0]["difference"] == pytest.approx(gains["scenes-llava"] / 22)
    assert all("model" not in row for row in alone["rows"])
    with pytest.raises(ValueError, match="two are called scenes-llava in the table; rename a folder"):
        called(["scenes-llava", "runs/seed1/scenes-llava"])


def test_the_page_marks_what_is_not_shown_and_where_models_disagree() -> None:
    def over(name: str, keep: float, difference: float, p: float, *by: float) -> dict:
        each = dict(zip(("a", "b"), by, strict=True))
        return {"split": "test", "keep": keep, "strategy": "census", "over": name, "difference": difference,
                "p_holm": p, "by_model": each, "n": 40}  # fmt: skip

    compared = [
        over("cls", 0.25, 0.2, 0.01, 0.1, 0.3), over("cls", 0.1, 0.1, 0.2, -0.1, 0.3),
        over("fastv", 0.25, -0.3, 0.04, -0.3, -0.3), over("fastv", 0.1, 0.05, 0.05, 0.02, 0.08),
    ]  # fmt: skip
    share = {"share": 0.5, "low": 0.4, "high": 0.6}
    rows = [
        {"model": name, "strategy": spec, "split": "test", "keep": keep, "accuracy": share}
        for name in ("a", "b") for spec, keep in (("none", 1.0), ("census", 0.25), ("census", 0.1))
    ]  # fmt: skip
    lines = census_page.pruners({"compared": compared}).splitlines()
    assert lines[2:4] == ["| `fastv` | -0.300 ! (0 of 2) | +0.050 |", "| `cls` | +0.200 | +0.100 * (1 of 2) |"]
    assert lines[-1] == (
        "census is shown to be above the pruner in 2 of 4 cells and below it in 1; on every model by itself it is "
        "above in 2. 40 answers a cell."
    )
    assert census_page.models({"compared": compared, "rows": rows}).splitlines()[2] == (
        "| `a` | 0.500 [0.400, 0.600] | 0.500 | 0.500 |"
    )


def test_variants_are_what_their_names_say() -> None:
    """A cap bounds sizes alone; the middle moves a cluster and leaves it whole; saliency decides the first pick."""
    pictures = [drawn(1, 24, grid=(1, 4, 6)), drawn(2, 12, grid=(1, 3, 4))]
    seen = visuals(Variant(), pictures)
    plain, capped, middle, salient, dropped = (
        one.at_prompt(seen)
        for one in (
            Variant(keep=4), Variant(keep=4, cap=3), Variant(keep=4, place="middle"),
            Variant(keep=1, alpha=0.5), Kcenter(keep=4),
        )
    )  # fmt: skip
    assert torch.equal(capped.sizes, plain.sizes.clamp(max=3))
    assert plain.sizes.max() > 3
    assert torch.equal(dropped.keep, plain.keep)
    assert dropped.sizes is None
    assert middle.sizes.sum(1).tolist() == [24, 12]
    for row, picture in enumerate(pictures):
        assert int(salient.keep[row].nonzero()) == int(picture.saliency.argmax())
        for number, at in enumerate(middle.keep[row].nonzero()[:, 0].tolist()):
            members = ((middle.into[row] == at) & seen.valid[row]).nonzero()[:, 0]
            assert middle.sizes[row, number] == len(members)
            assert len({int(one) for one in plain.into[row, members]}) == 1
            close(middle.weights[row, members], torch.full((len(members),), 1 / len(members)), 2)
            wide = picture.grid[2]
            places = torch.stack([members // wide, members % wide], 1).double()
            apart = (places - places.mean(0)).norm(dim=1)
            assert apart[members == at] <= apart.min() + 1e-6
