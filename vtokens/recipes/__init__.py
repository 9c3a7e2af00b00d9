"""Recipes: what takes several passes, or owns the processor, and so is a function around `generate`, not a strategy.

A strategy acts inside one pass and never sees a model. What looks, decides, and then asks again is written here: one
file a recipe, a function of model, processor and question. It watches passes by strategies of its own
(`vtokens.engine.attach.joined`), which run beside whatever is attached, and leaves nothing behind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vtokens.core.lazy import importer

if TYPE_CHECKING:
    from vtokens.recipes.crop import Zoomed, zoom

__all__ = ["Zoomed", "zoom"]

__getattr__ = importer(__name__, {"Zoomed": "vtokens.recipes.crop", "zoom": "vtokens.recipes.crop"})


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
