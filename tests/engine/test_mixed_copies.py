"""Beams and returned sequences of samples with several pictures, where transformers mixes these up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import vtokens
from tests.engine.cases import model
from tests.families import ALL, image, inputs
from vtokens.adapters import adapter_for

MIXING = ("glm4v", "glm46v", "glm4v_moe")
COPIES = [{"num_beams": 3}, {"num_return_sequences": 2, "do_sample": True}]


def batch(family: str, *counts: int) -> dict[str, Any]:
    """A row for each count, with so many images."""
    groups = [[image(84, 56, seed=10 * row + n) for n in range(count)] for row, count in enumerate(counts)]
    return dict(inputs(family, ["what?"] * len(counts), groups))


def test_those_that_override_the_expansion_are_known() -> None:
    """A family that repeats pictures in a way of its own either mixes them up or was looked at."""
    own = {f for f in ALL if "_expand_multimodal_outputs" in vars(type(model(f, "plain")))}
    assert own == {f for f in ALL if adapter_for(model(f, "plain")).mixes_copies} == {*MIXING}


def test_the_page_of_support_names_them() -> None:
    page = Path(__file__).parents[2].joinpath("docs", "support.md").read_text()
    [paragraph] = [one for one in page.split("\n\n") if one.startswith("Beams and several returned sequences")]
    anatomies = {f: adapter_for(model(f, "plain")).anatomy for f in ALL}
    others = {f for f, anatomy in anatomies.items() if anatomy.aside or anatomy.calls}
    assert {f for f in ALL if f"`{f}`" in paragraph} == {*MIXING} | others


@pytest.mark.parametrize("family", MIXING)
@pytest.mark.parametrize("options", COPIES)
@torch.no_grad()
def test_they_are_refused_with_the_way_out(family: str, options: dict[str, Any]) -> None:
    """One image a sample is right, and so are several without copies."""
    target = model(family, "pruned")
    with vtokens.attach(target, "cls(keep=0.5)"):
        with pytest.raises(ValueError, match=r"a sample has several pictures and \d beams or returned sequences"):
            target.generate(**batch(family, 2, 1), **options, max_new_tokens=2)
        target.generate(**batch(family, 1, 1), **options, max_new_tokens=2)
        target.generate(**batch(family, 2, 1), max_new_tokens=2, do_sample=False)
