"""Recipes by name: specs, cards and what is said of wrong ones."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

import vtokens
import vtokens.recipes
from tests.families import build
from tests.recipes.looking import answered, picture
from vtokens.recipes import Recipe, parse_recipe, recipe, recipes
from vtokens.recipes.looking.asking import Asking
from vtokens.recipes.looking.base import Looked

PAGE = Path(__file__).parents[2] / "docs" / "recipes.md"


@pytest.mark.parametrize("name", recipes())
def test_every_recipe_is_a_function_with_a_section_and_evidence(name: str) -> None:
    cls = recipes()[name]
    function = getattr(vtokens.recipes, name)
    assert function.__name__ == name
    assert name in vtokens.recipes.__all__
    assert cls.paper
    assert cls.evidence
    path, _, test = cls.shown.partition("::")
    assert f"def {test}(" in (Path(__file__).parents[2] / path).read_text(encoding="utf-8")
    assert f"| `{name}` |" in PAGE.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match=f"{name!r} is a recipe, no strategy: .* vtokens.recipes.{name} "):
        vtokens.strategies.parse(name)


@pytest.mark.parametrize("name", recipes())
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_every_recipe_says_its_passes_in_half_precision_behind_a_pruner(family: str, name: str, tmp_path: Path) -> None:
    """And leaves the model, and what is attached to it, as they were."""
    model, processor = build(family)
    model.to(torch.bfloat16)
    picture().save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a caption")
    settings = {"ara": {"folder": str(tmp_path), "when": 0.1}, "patches": {"least": 0.0}, "dyfo": {"rollouts": 2}}
    with vtokens.attach(model, "fastv(keep=0.5, layer=1)") as handle:
        chosen = getattr(vtokens.recipes, name)
        got = answered(chosen, model, processor, picture(), **settings.get(name, {}), max_new_tokens=2)
        assert vtokens.attachment(model) is handle
    assert 0 < got.flops < got.flops_full
    assert got.facts()["passes"] == got.passes
    assert f"{got.passes} pass" in got.told()


def test_specs_are_read_and_written() -> None:
    for text in ("crop", "crop(method='gradient')", "crop(layer=3, size=80)", "ara(folder='photos', when=inf)"):
        assert str(parse_recipe(text)) == text
        assert parse_recipe(parse_recipe(text)) is not None
    assert parse_recipe(" crop( method = gradient ) ") == parse_recipe("crop(method='gradient')")
    assert parse_recipe("crop(layer=none)") == parse_recipe("crop")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("crpo", "unknown recipe 'crpo'. Did you mean 'crop'"),
        ("crop(siez=3)", "Did you mean 'size'"),
        ("crop(size=3, size=4)", "'size' is given twice"),
        ("crop(3)", "settings are given by name"),
        ("crop(**x)", "settings are given by name"),
        ("crop(size=f(1))", "cannot read a value in the recipe"),
        ("crop+carve", "settings are given by name"),
        ("crop(", "cannot read the recipe"),
    ],
)
def test_wrong_specs_are_said(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says.replace("*", r"\*")):
        parse_recipe(text)


def test_a_name_is_taken_once() -> None:
    @dataclasses.dataclass(frozen=True)
    class Other(Recipe):
        def answer(self, asking: Asking) -> Looked:
            raise NotImplementedError

    recipes()
    with pytest.raises(ValueError, match="recipe 'crop' is already registered by vtokens"):
        recipe("crop")(Other)
    with pytest.raises(ValueError, match="unknown evidence 'pariti'"):
        recipe("other", evidence="pariti")  # type: ignore[arg-type]
