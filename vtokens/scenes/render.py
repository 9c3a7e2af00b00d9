"""Rendering of scenes into pixels, and the class that each patch shows, both vectorised over a batch.

Only IEEE-exact operations are used (no sine, exponential or matrix product), so the bytes are equal on every machine.
Every object lies inside its own cell; it is computed in the cell's 24 x 24 window and written there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .glyphs import ink
from .photographs import cut
from .signs import print_words
from .world import CELL, CLASSES, COLOURS, GRID, IMAGE, PATCH, SHAPES, Scene, Thing, stream

BACKGROUND = len(CLASSES) + 10  #: the class of a patch that shows nothing

_RGB = np.array(
    [(225, 35, 35), (40, 190, 50), (45, 70, 235), (240, 220, 40), (185, 50, 205), (45, 215, 225)], dtype=np.float32
)
_STEPS = 5  # nodes on a side of the texture's coarse grid
_PLATE = 3.0  # pixels of plain ground around what stands on a photograph
SEEN = 0.15  #: share of a patch's pixels an object must cover to be what the patch shows


def render(scenes: Sequence[Scene]) -> np.ndarray:
    """Render scenes to pixels: uint8 (len(scenes), 96, 96, 3), RGB."""
    canvas = np.stack([_background(s) for s in scenes])
    cells = canvas.reshape(len(scenes), GRID, CELL, GRID, CELL, 3)
    at, things = _flat(scenes)
    _lay_photographs(cells, scenes, at, things)
    if things:
        cover, paint = _masks(things), _paints(scenes)
        rows, columns = np.array([t.row for t in things]), np.array([t.column for t in things])
        weight = (cover * np.array([t.opacity for t in things], dtype=np.float32)[:, None, None])[..., None]
        under = cells[at, rows, :, columns]
        cells[at, rows, :, columns] = under + (paint[:, None, None] - under) * weight
    for picture, scene in zip(canvas, scenes, strict=True):
        print_words(picture, scene)
    noise = np.stack([_pixels(s).integers(0, 256, (IMAGE, IMAGE, 3), dtype=np.uint8) for s in scenes])
    canvas += (noise.astype(np.float32) - 127.5) * np.float32(8 / 127.5)
    return np.floor(np.clip(canvas, 0, 255) + np.float32(0.5)).astype(np.uint8)


def _lay_photographs(cells: np.ndarray, scenes: Sequence[Scene], at: np.ndarray, things: list[Thing]) -> None:
    """Put photographs behind the scenes that have one, in place; around their things the plain ground is left.

    So what stands on a photograph is told from what lies around it as well as on the plain ground.
    """
    for n, scene in enumerate(scenes):
        if scene.crop is None:
            continue
        photograph = cut(scene.crop).reshape(GRID, CELL, GRID, CELL, 3)
        under, cells[n] = cells[n].copy(), photograph
        mine = [t for t, i in zip(things, at, strict=True) if i == n]
        for thing, plate in zip(mine, _masks(mine, _PLATE) if mine else (), strict=True):
            window = cells[n, thing.row, :, thing.column]
            window += (under[thing.row, :, thing.column] - window) * plate[..., None]


def patch_classes(scenes: Sequence[Scene], patch: int = PATCH) -> np.ndarray:
    """What each patch shows: int64 (len(scenes), 12, 12); a class number of a `Thing`, or BACKGROUND.

    patch: pixels on a side, a divisor of 24; 96 / patch are on a side of what is returned.

    A patch shows an object that covers at least 15% of it; the patch an object covers most always shows it.
    """
    side = CELL // patch
    found = np.full((len(scenes), GRID, side, GRID, side), BACKGROUND, dtype=np.int64)
    at, things = _flat(scenes)
    if things:
        share = _masks(things).reshape(-1, side, patch, side, patch).mean(axis=(2, 4))
        most = share.reshape(len(things), -1).max(axis=1)[:, None, None]
        shown = (share >= SEEN) | (share >= most)
        rows, columns = np.array([t.row for t in things]), np.array([t.column for t in things])
        numbers = np.array([t.number for t in things])[:, None, None]
        found[at, rows, :, columns] = np.where(shown, numbers, BACKGROUND)
    return found.reshape(len(scenes), GRID * side, GRID * side)


def _flat(scenes: Sequence[Scene]) -> tuple[np.ndarray, list[Thing]]:
    """All visible things of a batch, with the number of the scene each belongs to."""
    pairs = [(i, t) for i, s in enumerate(scenes) for t in (*s.visible, *s.digits)]
    return np.array([i for i, _ in pairs], dtype=np.int64), [t for _, t in pairs]


def _pixels(scene: Scene, part: int = 1) -> np.random.Generator:
    return stream(scene.split, scene.seed, scene.index, scene.attempt, part)


def _paints(scenes: Sequence[Scene]) -> np.ndarray:
    """The colour of every visible thing, float32 (n, 3): its nominal colour, jittered."""
    found = []
    for scene in scenes:
        things = (*scene.visible, *scene.digits)
        jitter = _pixels(scene, 3).integers(-18, 19, (len(things), 3)).astype(np.float32)
        for thing, j in zip(things, jitter, strict=True):
            if thing.digit is None:
                found.append(_RGB[COLOURS.index(thing.colour)] + j)
            else:
                found.append(np.float32(12 if thing.colour == "black" else 243) + j * np.float32(0.5))
    return np.stack(found)


def _background(scene: Scene) -> np.ndarray:
    """A grey ground with low-frequency texture and a few grey strokes, float32 (96, 96, 3)."""
    rng = _pixels(scene, 2)
    base = 70 + 80 * rng.random()
    light, tint = rng.random((_STEPS, _STEPS, 1)) - 0.5, rng.random((_STEPS, _STEPS, 3)) - 0.5
    nodes = (base + light * 40 + tint * 18).astype(np.float32)
    place = np.arange(IMAGE, dtype=np.float32) * np.float32((_STEPS - 1) / IMAGE)
    low = place.astype(np.int64)
    part = (place - low).astype(np.float32)
    rows = nodes[low] + (nodes[low + 1] - nodes[low]) * part[:, None, None]
    ground = rows[:, low] + (rows[:, low + 1] - rows[:, low]) * part[None, :, None]
    for _ in range(int(rng.integers(0, 4))):
        _stroke(ground, rng)
    return ground


def _stroke(ground: np.ndarray, rng: np.random.Generator) -> None:
    """Draw one short grey stroke, in place, as a distractor."""
    top, left = (int(v) for v in rng.integers(0, IMAGE - CELL, 2))
    ends = rng.integers(2, CELL - 2, 4).astype(np.float32)
    grey = np.float32(rng.integers(20, 236))
    y, x = np.mgrid[0:CELL, 0:CELL].astype(np.float32)
    run, rise = ends[2] - ends[0], ends[3] - ends[1]
    along = ((x - ends[0]) * run + (y - ends[1]) * rise) / max(run * run + rise * rise, np.float32(1))
    along = np.clip(along, 0, 1)
    away = np.sqrt((x - ends[0] - along * run) ** 2 + (y - ends[1] - along * rise) ** 2)
    weight = np.clip(np.float32(1.3) - away, 0, 1)[..., None] * np.float32(0.7)
    window = ground[top : top + CELL, left : left + CELL]
    window += (grey - window) * weight


def _masks(things: Sequence[Thing], beyond: float = 0.5) -> np.ndarray:
    """How far each thing covers each pixel of its cell's window, float32 (n, 24, 24) in 0-1, edges one pixel soft.

    beyond: pixels it reaches out; one half is its own edge.
    """
    box = np.array([t.box for t in things], dtype=np.float32)
    left, top = box[:, 0] - [t.column * CELL for t in things], box[:, 1] - [t.row * CELL for t in things]
    r = ((box[:, 2] - box[:, 0]) / 2).astype(np.float32)[:, None, None]
    grid = np.arange(CELL, dtype=np.float32) + np.float32(0.5)
    dx = (grid[None, None, :] - left[:, None, None]).astype(np.float32) - r
    dy = (grid[None, :, None] - top[:, None, None]).astype(np.float32) - r
    cover = np.empty((len(things), CELL, CELL), dtype=np.float32)
    shape = np.array([t.shape for t in things])
    for name in SHAPES:
        k = shape == name
        if k.any():
            cover[k] = np.clip(_inside(name, dx[k], dy[k], r[k]) + np.float32(beyond), 0, 1)
    k = shape == "digit"
    if k.any() and beyond > 0.5:
        cover[k] = np.clip(r[k] - np.maximum(np.abs(dx[k]), np.abs(dy[k])) + np.float32(beyond), 0, 1)
    elif k.any():
        cover[k] = _glyphs(np.array([t.glyph for t in things])[k], dx[k], dy[k], r[k])
    return cover


def _inside(shape: str, dx: np.ndarray, dy: np.ndarray, r: np.ndarray) -> np.ndarray:
    """Roughly the distance in pixels to the shape's edge, positive inside."""
    f = np.float32
    ax, ay = np.abs(dx), np.abs(dy)
    if shape == "circle":
        return r - np.sqrt(dx * dx + dy * dy)
    if shape == "square":
        return r * f(0.88) - np.maximum(ax, ay)
    if shape == "triangle":
        return np.minimum(r * f(0.9) - dy, (dy + r) * f(0.5) - ax)
    if shape == "cross":
        bar = r * f(0.36)
        return np.maximum(np.minimum(r - ax, bar - ay), np.minimum(bar - ax, r - ay))
    if shape == "ring":
        return r * f(0.26) - np.abs(np.sqrt(dx * dx + dy * dy) - r * f(0.74))
    return (r * f(1.05) - (ax + ay)) * f(0.75)  # diamond


def _glyphs(glyphs: np.ndarray, dx: np.ndarray, dy: np.ndarray, r: np.ndarray) -> np.ndarray:
    """The 8 x 8 glyphs stretched over their boxes with bilinear weights, 0 outside."""
    padded = np.pad(ink(glyphs), ((0, 0), (1, 1), (1, 1)))
    u = np.clip((dx + r) / (r * np.float32(2)) * np.float32(8) + np.float32(0.5), 0, np.float32(8.999))
    v = np.clip((dy + r) / (r * np.float32(2)) * np.float32(8) + np.float32(0.5), 0, np.float32(8.999))
    u, v = np.broadcast_to(u, (len(glyphs), CELL, CELL)), np.broadcast_to(v, (len(glyphs), CELL, CELL))
    i, j, n = v.astype(np.int64), u.astype(np.int64), np.arange(len(glyphs))[:, None, None]
    b, a = v - i, u - j
    upper = padded[n, i, j] * (1 - a) + padded[n, i, j + 1] * a
    lower = padded[n, i + 1, j] * (1 - a) + padded[n, i + 1, j + 1] * a
    return (upper * (1 - b) + lower * b).astype(np.float32)
