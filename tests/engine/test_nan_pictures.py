"""A picture whose features are NaN, as where a tower overflows, takes nothing from the others of a batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import vtokens
from tests.engine.cases import model
from tests.engine.compare import one
from tests.families import image, inputs
from tests.limits import close_pass
from vtokens.strategies.selection import Selection, as_said

pytestmark = pytest.mark.usefixtures("no_grad")
TEXTS = ["Look: <image> what is this?"] * 3
# Greedy walks, clusters, decompositions, groups, several stages: each meets NaN in its own way.
PRUNERS = (
    "hiprune(alpha=0.8)", "sparsevlm", "information_horizon", "prunesid", "agilepruner", "todre", "divprune", "dart",
    "visionzip", "prumerge", "cdpruner", "scope", "mmtok", "pyramiddrop",
)  # fmt: skip


@pytest.mark.parametrize("name", PRUNERS)
def test_the_other_rows_are_what_they_are_beside_a_whole_picture(name: str) -> None:
    family = "llava"
    batch = dict(inputs(family, TEXTS, [[image(100, 60, seed=seed)] for seed in range(3)]))
    broken = {**batch, "pixel_values": batch["pixel_values"].clone()}
    broken["pixel_values"][0, 0, 3, 3] = torch.nan
    target = model(family, "pruned")
    with vtokens.attach(target, name, keep=0.4) as handle:
        expected, said = target(**batch).logits, handle.report()
        got, of_broken = target(**broken).logits, handle.report()
    assert got[0].isnan().any()
    close_pass(got[1:], expected[1:])
    for own, other in zip(of_broken.samples[1:], said.samples[1:], strict=True):
        assert all(np.array_equal(*layers) for layers in zip(own.positions, other.positions, strict=True))


def test_a_choice_has_as_many_tokens_as_it_says() -> None:
    keep = torch.tensor([[1, 1, 1, 0], [0, 0, 1, 0], [1, 0, 0, 1]]).bool()
    valid = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]]).bool()
    got = as_said(Selection(keep, (2, 3, 2)), valid).keep
    assert got.tolist() == [[True, True, False, False], [True, True, True, False], [True, True, False, False]]


def test_what_fits_stays_as_it_is() -> None:
    keep, valid = torch.rand(5, 9) > 0.5, torch.rand(5, 9) > 0.2
    found = Selection(keep & valid, tuple((keep & valid).sum(1).tolist()))
    assert torch.equal(as_said(found, valid).keep, found.keep)
    assert as_said(Selection(keep), valid).keep is keep


@pytest.mark.parametrize("name", ["prunesid", "agilepruner"])
def test_decompositions_leave_gradients_alone(name: str) -> None:
    """In a pass that keeps what gradients need, which is what a plain call of a model is."""
    target = model("llava", "pruned")
    with vtokens.attach(target, name, keep=0.4), torch.enable_grad():
        assert target(**one("llava")).logits.requires_grad
