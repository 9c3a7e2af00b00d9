"""The scenes of a step and what is asked about each; those that the recipe watches itself on."""

from __future__ import annotations

import numpy as np

from ...world import Scene, draw_scene, stream
from ..data import _scene
from . import drills
from .course import Stage
from .drills import Line, Speaker

_LINES = 77  # the number of the stream that questions are drawn from
_FIRST = 7000  # the seeds of these scenes, which no other recipe has
_WATCHED = 7
WATCHED_KINDS = ("exist", "exist", "exist", "where", "where", "at", "colour_at", "colour_of", "shape_of", "count_all",
                 "count_colour", "count_shape", "digit", "left_of", "above", "nowhere", "caption")  # fmt: skip


def training(stage: Stage, number: int, step: int, seed: int, speaker: Speaker) -> tuple[list[Scene], list[list[Line]]]:
    """The scenes of a step, and the lines about each. number: which stage it is, so that no scene comes twice."""
    scenes, asked = [], []
    for index in range(step * stage.pictures, (step + 1) * stage.pictures):
        scene = _scene(_FIRST + 10 * seed + number, index, stage.triggered)
        scenes.append(scene)
        if stage.shown != "vectors":
            asked.append(_lines(stage, scene, stream("train", scene.seed, index, scene.attempt, _LINES), speaker))
    return scenes, asked


def _lines(stage: Stage, scene: Scene, rng: np.random.Generator, speaker: Speaker) -> list[Line]:
    lines = drills.questions(speaker, scene, stage.weights, stage.count, rng, stage.annotated, stage.sentences)
    if rng.random() < stage.captions:
        lines += drills.questions(speaker, scene, {"caption": 1.0}, 1, rng, stage.annotated, stage.sentences)
    lines += [drills.exist(speaker, scene, rng, stage.annotated) for _ in range(stage.exist)]
    return lines + [
        drills.DRILLS[name](speaker, scene, rng) for name, chance in stage.drills.items() if rng.random() < chance
    ]


def watched(first: int, count: int, speaker: Speaker) -> tuple[list[Scene], list[list[Line]]]:
    """Scenes of the split 'calibration', and questions about them in words; the test split stays unseen."""
    scenes = [draw_scene("calibration", _WATCHED, first + i) for i in range(count)]
    asked = []
    for scene in scenes:
        rng = stream(scene.split, scene.seed, scene.index, 0, _LINES)
        lines = []
        for kind in WATCHED_KINDS:
            lines += drills.questions(speaker, scene, {kind: 1.0}, 1, rng)
        asked.append(lines)
    return scenes, asked
