"""Recipes: what takes several passes, or owns the processor, and so is a function around `generate`, not a strategy.

A strategy acts inside one pass and never sees a model. What looks, decides, and then asks again is written here: one
file a recipe, a function of model, processor and question, or an object that `generate(custom_generate=...)` takes
(`Again`). It watches passes by strategies of its own (`vtokens.engine.attach.joined`), which run beside whatever is
attached, and leaves nothing behind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vtokens.core.lazy import importer

if TYPE_CHECKING:
    from vtokens.recipes.again import Again
    from vtokens.recipes.beam_loop import Opera
    from vtokens.recipes.beams import opera
    from vtokens.recipes.looking.ara import ara
    from vtokens.recipes.looking.base import Looked, Recipe
    from vtokens.recipes.looking.carve import carve
    from vtokens.recipes.looking.crop import crop
    from vtokens.recipes.looking.dyfo import dyfo
    from vtokens.recipes.looking.ilvad import ilvad
    from vtokens.recipes.looking.patches import patches
    from vtokens.recipes.looking.registry import parse_recipe, recipe, recipes
    from vtokens.recipes.looking.sdrpn import sdrpn
    from vtokens.recipes.quotas import Quota, quota
    from vtokens.recipes.region import Region
    from vtokens.recipes.scorers import AnswerScorer, ClipScorer
    from vtokens.recipes.search import Searched, search_frames, timed_parts
    from vtokens.recipes.zooming import Zoom, Zoomed, zoom

__all__ = [
    "Again",
    "AnswerScorer",
    "ClipScorer",
    "Looked",
    "Opera",
    "Quota",
    "Recipe",
    "Region",
    "Searched",
    "Zoom",
    "Zoomed",
    "ara",
    "carve",
    "crop",
    "dyfo",
    "ilvad",
    "opera",
    "parse_recipe",
    "patches",
    "quota",
    "recipe",
    "recipes",
    "sdrpn",
    "search_frames",
    "timed_parts",
    "zoom",
]

_ZOOM, _SCORERS, _SEARCH = "vtokens.recipes.zooming", "vtokens.recipes.scorers", "vtokens.recipes.search"
_NAMES = "vtokens.recipes.looking.registry"
_LOOKING = ("ara", "carve", "crop", "dyfo", "ilvad", "patches", "sdrpn")
_MODULES = {
    "Again": "vtokens.recipes.again",
    "AnswerScorer": _SCORERS,
    "ClipScorer": _SCORERS,
    "Looked": "vtokens.recipes.looking.base",
    "Opera": "vtokens.recipes.beam_loop",
    "opera": "vtokens.recipes.beams",
    "Quota": "vtokens.recipes.quotas",
    "Recipe": "vtokens.recipes.looking.base",
    "Region": "vtokens.recipes.region",
    "Searched": _SEARCH,
    "Zoom": _ZOOM,
    "Zoomed": _ZOOM,
    "parse_recipe": _NAMES,
    "quota": "vtokens.recipes.quotas",
    "recipe": _NAMES,
    "recipes": _NAMES,
    "search_frames": _SEARCH,
    "timed_parts": _SEARCH,
    "zoom": _ZOOM,
    **{name: f"vtokens.recipes.looking.{name}" for name in _LOOKING},
}
if not TYPE_CHECKING:  # a checker is to miss names that are not there
    __getattr__ = importer(__name__, _MODULES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
