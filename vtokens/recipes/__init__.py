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
    from vtokens.recipes.crop import Zoom, Zoomed, zoom
    from vtokens.recipes.quotas import Quota, quota
    from vtokens.recipes.region import Region
    from vtokens.recipes.scorers import AnswerScorer, ClipScorer
    from vtokens.recipes.search import Searched, search_frames, timed_parts

__all__ = [
    "Again",
    "AnswerScorer",
    "ClipScorer",
    "Quota",
    "Region",
    "Searched",
    "Zoom",
    "Zoomed",
    "quota",
    "search_frames",
    "timed_parts",
    "zoom",
]

_CROP, _SCORERS, _SEARCH = "vtokens.recipes.crop", "vtokens.recipes.scorers", "vtokens.recipes.search"
_MODULES = {
    "Again": "vtokens.recipes.again",
    "AnswerScorer": _SCORERS,
    "ClipScorer": _SCORERS,
    "Quota": "vtokens.recipes.quotas",
    "Region": "vtokens.recipes.region",
    "Searched": _SEARCH,
    "Zoom": _CROP,
    "Zoomed": _CROP,
    "quota": "vtokens.recipes.quotas",
    "search_frames": _SEARCH,
    "timed_parts": _SEARCH,
    "zoom": _CROP,
}
__getattr__ = importer(__name__, _MODULES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
