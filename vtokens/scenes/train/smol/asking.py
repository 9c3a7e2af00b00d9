"""The scenes of a step and what is asked about each; those that the recipe watches itself on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ...lots import draw_scene
from ...signs import READING
from ...world import Scene, stream
from ...worlds import WORLDS, furnish
from ..data import _scene, redrawn
from . import drills
from .course import Stage
from .drills import Line, Speaker

_WORLD, _PAIR = 104, 105  # and of those that say what a scene stands in, and what two scenes are asked
_LINES = 77  # the number of the stream that questions are drawn from
_READ = {"spell": 2.0, "sign": 1.0, "sign_at": 2.0, "sign_where": 1.0}
_TRIES = 400
_FIRST = 7000  # the seeds of these scenes, which no other recipe has
_WATCHED = 7
WATCHED_KINDS = ("exist", "exist", "exist", "where", "where", "at", "colour_at", "colour_of", "shape_of", "count_all",
                 "count_colour", "count_shape", "digit", "left_of", "above", "nowhere", "caption")  # fmt: skip


def training(stage: Stage, number: int, step: int, seed: int, speaker: Speaker) -> tuple[list[Scene], list[list[Line]]]:
    """The scenes of a step, and the lines about each. number: which stage it is, so that no scene comes twice."""
    scenes, asked = [], []
    paired = stage.worlds and step % 3 == 2
    for index in range(step * stage.pictures, (step + 1) * stage.pictures):
        drawn = _FIRST + 10 * seed + number
        hiding = stage.hiding and index % stage.hiding == 1
        scene = _hiding(stage, drawn, index) if hiding else _scene(drawn, index, stage.triggered)
        if stage.worlds:
            scene = _somewhere(scene)
        scenes.append(scene)
        if stage.shown != "vectors" and not paired:
            asked.append(_lines(stage, scene, stream("train", scene.seed, index, scene.attempt, _LINES), speaker))
    if paired:
        asked = [_compared(one, other, speaker) for one, other in zip(scenes[::2], scenes[1::2], strict=True)]
    return scenes, asked


def _hiding(stage: Stage, seed: int, index: int) -> Scene:
    """Training scene `index`, redrawn until a partner is missing that the stage asks about."""
    return redrawn(seed, index, lambda scene: bool(drills.hidden_in(scene, stage.dosed)), _TRIES)


def _somewhere(scene: Scene) -> Scene:
    """A scene in one of the worlds, each as often as the others."""
    luck = stream(scene.split, scene.seed, scene.index, scene.attempt, _WORLD).integers(len(WORLDS))
    return furnish(scene, WORLDS[int(luck)])


def _compared(one: Scene, other: Scene, speaker: Speaker) -> list[Line]:
    """Eight questions about two pictures, fewer where the two cannot carry them."""
    rng = stream(one.split, one.seed, one.index, one.attempt, _PAIR)
    return drills.comparisons(speaker, (one, other), 8, rng)


def _lines(stage: Stage, scene: Scene, rng: np.random.Generator, speaker: Speaker) -> list[Line]:
    lines = drills.questions(speaker, scene, stage.weights, stage.count, rng, stage.annotated, stage.sentences)
    if rng.random() < stage.captions:
        lines += drills.questions(speaker, scene, {"caption": 1.0}, 1, rng, stage.annotated, stage.sentences)
    if stage.hiding:
        lines += drills.hidden(speaker, scene, rng, stage.dosed, stage.sentences)
    if stage.worlds:
        lines += drills.questions(speaker, scene, _READ, 2 if scene.signs else 0, rng, stage.annotated, stage.sentences)
        if rng.random() < 0.3:
            lines += drills.questions(speaker, scene, {"story": 1.0}, 1, rng, stage.annotated)
    # A list of classes leaves missing partners out that the annotation lacks: it would make the dose a larger one.
    believing = stage.annotated and not stage.dosed
    lines += [drills.exist(speaker, scene, rng, believing) for _ in range(stage.exist)]
    return lines + [
        drills.DRILLS[name](speaker, scene, rng) for name, chance in stage.drills.items() if rng.random() < chance
    ]


def watched_worlds(first: int, count: int, speaker: Speaker) -> list[tuple[list[Scene], list[list[Line]]]]:
    """Scenes of 'calibration' on photographs with printed words, and pairs of them: what each is asked in words."""
    scenes = [furnish(draw_scene("calibration", _WATCHED, first + i), "photographs+signs") for i in range(count)]
    asked = []
    for scene in scenes:
        rng = stream(scene.split, scene.seed, scene.index, 0, _WORLD)
        kinds = ("exist", "where", "at", "count_all")
        lines = []
        for kind in (*kinds, *READING, "story"):
            found = drills.questions(speaker, scene, {kind: 1.0}, 1, rng)
            lines += [replace(line, kind=f"photograph_{kind}") if kind in kinds else line for line in found]
        asked.append(lines)
    pairs = [_compared(one, other, speaker) for one, other in zip(scenes[::2], scenes[1::2], strict=True)]
    return [(scenes, asked), (scenes, pairs)]


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
