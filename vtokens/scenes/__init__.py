"""Scenes: the embedded testbed, pictures with exact ground truth, and the tiny trained models shipped with it.

    from vtokens import scenes
    sample = scenes.examples("test", n=110)
    folder = scenes.embedded_path("scenes-llava")      # load it like any other checkpoint
    scenes.evaluate(model, processor, sample)["overall"]

Nothing heavy is imported until it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import clips
    from .compare import COMPARE
    from .embedded import embedded_models, embedded_path
    from .evaluation import Accuracy, accuracy, answer, evaluate
    from .kinds import ALL_KINDS, EVERY_KIND, HARDER, KINDS, POPE
    from .lots import draw_scene
    from .sampling import Example, examples, prompt, score
    from .signs import READING
    from .stories import STORIES
    from .world import CLASSES, COLOURS, PAIRS, SHAPES, SPLITS, Pair, Scene, Thing
    from .worlds import WORLDS

_HOME = {
    "embedded": ("embedded_models", "embedded_path"),
    "evaluation": ("Accuracy", "accuracy", "answer", "evaluate"),
    "sampling": ("Example", "examples", "prompt", "score"),
    "compare": ("COMPARE",),
    "kinds": ("ALL_KINDS", "EVERY_KIND", "HARDER", "KINDS", "POPE"),
    "signs": ("READING",),
    "stories": ("STORIES",),
    "lots": ("draw_scene",),
    "world": ("CLASSES", "COLOURS", "PAIRS", "SHAPES", "SPLITS", "Pair", "Scene", "Thing"),
    "worlds": ("WORLDS",),
}
_WHERE = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "ALL_KINDS",
    "CLASSES",
    "COLOURS",
    "COMPARE",
    "EVERY_KIND",
    "HARDER",
    "KINDS",
    "PAIRS",
    "POPE",
    "READING",
    "SHAPES",
    "SPLITS",
    "STORIES",
    "WORLDS",
    "Accuracy",
    "Example",
    "Pair",
    "Scene",
    "Thing",
    "accuracy",
    "answer",
    "clips",
    "draw_scene",
    "embedded_models",
    "embedded_path",
    "evaluate",
    "examples",
    "prompt",
    "score",
]


if not TYPE_CHECKING:  # a checker is to miss names that are not there

    def __getattr__(name: str) -> Any:
        if name == "clips":  # a package beside these modules
            return import_module(".clips", __name__)
        if name not in _WHERE:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f".{_WHERE[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
