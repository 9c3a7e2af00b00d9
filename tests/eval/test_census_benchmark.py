"""`benchmarks/census.py`: paired differences over pictures, and the variants of census that it asks about."""

from __future__ import annotations

import numpy as np
import torch

from tests.limits import close
from tests.strategies.helpers import registry_restored
from tests.strategies.invariants import drawn, visuals
from vtokens.eval.metrics.paired import difference

with registry_restored():  # what they register is compared there alone
    from benchmarks.census import against_pruners, paired, specs_there
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
