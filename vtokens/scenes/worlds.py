"""Harder worlds: the same scenes on photographs, or with printed words in their free cells, or both."""

from __future__ import annotations

import dataclasses

from vtokens.core.errors import unknown

from .photographs import draw_crop
from .signs import READING, draw_signs
from .world import Scene

#: What `examples` draws scenes in; "plain" is the grey ground with shapes and digits alone.
WORLDS = ("plain", "photographs", "signs", "photographs+signs")


def check_world(world: str) -> None:
    """Raise ValueError with the nearest name if `world` is none of WORLDS."""
    if world not in WORLDS:
        raise unknown("world", world, WORLDS)


def furnish(scene: Scene, world: str = "plain", kind: str | None = None) -> Scene:
    """The scene with what `world` adds, and with printed words where questions of `kind` are about some.

    Shapes and digits stay as they are, so that two worlds can be compared on the same scenes. Raises ValueError for an
    unknown world; with photographs, what `vtokens.scenes.photographs.check_photographs` raises.
    """
    check_world(world)
    if "signs" in world or kind in READING:
        scene = dataclasses.replace(scene, signs=draw_signs(scene))
    if "photographs" in world:
        scene = dataclasses.replace(scene, crop=draw_crop(scene))
    return scene
