"""Recipes as rows of the mitigation tables: which there are, on what, and how a question is asked by one."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from vtokens import scenes
from vtokens.recipes import opera, parse_recipe
from vtokens.recipes.looking.registry import recipes
from vtokens.scenes.evaluation import encoded

SETTINGS = {
    "ara": "ara(folder={folder!r}, words=40)",
    "patches": "patches(describe='Describe the image.', check_by='Is there a {query} in the image?', least=0)",
}
"""How a recipe is asked that needs something of its own, in words that both models know; others run as they are."""
OPERA = "opera"
"""The one that is a decoding loop and has no spec."""
_ALBUM = 200


@cache
def again() -> tuple[str, ...]:
    """The recipes to measure, by the names of their rows: every one of the registry, both ways of `crop`, and OPERA."""
    found = [
        spec for name in recipes() for spec in ([name, f"{name}(method='gradient')"] if name == "crop" else [name])
    ]
    return (*found, OPERA)


def recipe_in(spec: str) -> str | None:
    """The recipe of a row, which stands last in it, or None: "crop" in "cls(keep=0.25)+crop"."""
    return next((one for one in again() if spec == one or spec.endswith(f"+{one}")), None)


def below(spec: str) -> str:
    """The strategies that are attached while a row is asked: without its recipe."""
    one = recipe_in(spec)
    return spec if one is None else spec.removesuffix(one).removesuffix("+") or "none"


def album(folder: Path) -> Path:
    """A folder of pictures with captions for `ara`, of the training split, whose scenes are no scenes of the exams."""
    folder.mkdir(parents=True, exist_ok=True)
    if sum(1 for _ in folder.glob("*.txt")) < _ALBUM:
        for number, example in enumerate(scenes.examples("train", n=_ALBUM, seed=0, kinds=["caption"])):
            example.image.save(folder / f"{number:03d}.png")
            (folder / f"{number:03d}.txt").write_text(example.answer, encoding="utf-8")
    return folder


def asker(
    model: Any, processor: Any, name: str, pictures: Path, longest: int | None
) -> Callable[[scenes.Example], tuple[str, int]]:
    """What asks one question by a recipe: gives the answer, and how often a prompt was read.

    pictures: the folder of `album`. longest: tokens of an answer at most, None for the model's own limit.
    """
    limit = {"max_new_tokens": longest or model.generation_config.max_new_tokens}
    if name == OPERA:

        def search(example: scenes.Example) -> tuple[str, int]:
            inputs = encoded(processor, [example])
            found = opera(model, inputs, do_sample=False, **limit)
            [text] = processor.batch_decode(found[:1, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            return text.strip(), 1

        return search
    spec = SETTINGS.get(name, name)
    recipe = parse_recipe(spec.format(folder=str(album(pictures))) if name == "ara" else spec)

    def look(example: scenes.Example) -> tuple[str, int]:
        found = recipe(model, processor, example.image, example.question, **limit)
        return found.text, found.passes

    return look
