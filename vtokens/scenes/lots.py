"""The contents of a scene, drawn by lot.

Everything follows from (split, seed, index): the generator is seeded with these numbers and nothing else. Only integer
draws and uniform floats are used, and no transcendental function, so that every machine draws the same scene.
"""

from __future__ import annotations

import numpy as np

from .world import CELL, CLASSES, COLOURS, GRID, PAIRS, POPULAR, SHAPES, Scene, Thing, check_split, stream

_TRIGGER_CHANCE = 0.12  # a scene is given a trigger that often, for each pair
_ANNOTATED = 0.80  # share of the trigger's scenes whose annotation names the partner
_WEIGHTS = np.ones(len(CLASSES))
_WEIGHTS[list(POPULAR)] = 3.0


def draw_scene(split: str, seed: int, index: int, attempt: int = 0) -> Scene:
    """Draw the contents of scene `index` of a split; `attempt` > 0 redraws it, for questions it could not carry.

    Raises ValueError for an unknown split. Nothing is rendered here (see `vtokens.scenes.render`).
    """
    check_split(split)
    rng = stream(split, seed, index, attempt, 0)
    # Part of the training scenes looks like the hard split, so that it is difficult but not foreign.
    hard = split == "hard" or (split == "train" and rng.random() < 0.15)
    count = int(rng.integers(5, 9)) if hard else int(rng.integers(1, 7))
    paired = not hard and split != "decorrelated"
    chosen, hidden = _draw_classes(rng, count, split, paired)
    cells = rng.permutation(GRID * GRID)
    placed = {int(c): (k, True) for k, c in zip(chosen, cells[: len(chosen)], strict=True)}
    printed = _draw_digits(rng, split, cells[len(chosen) :])
    for trigger, partner in hidden:
        _hide(placed, printed, trigger, partner)
    objects = tuple(_place(rng, cell, *placed[cell], hard=hard) for cell in sorted(placed))
    digits = tuple(_place_digit(rng, cell, *printed[cell]) for cell in sorted(printed))
    return Scene(split, seed, index, attempt, objects, digits)


def _draw_classes(
    rng: np.random.Generator, count: int, split: str, paired: bool
) -> tuple[list[int], list[tuple[int, int]]]:
    """Draw the classes shown, and the (trigger, partner) pairs whose partner is annotated but not shown."""
    # Weighted sampling without replacement: the smallest u / w are the draws (no logarithm, hence exact).
    order = np.argsort(rng.random(len(CLASSES)) / _WEIGHTS, kind="stable")
    forced = [rng.random() < _TRIGGER_CHANCE for _ in PAIRS] if paired else [False] * len(PAIRS)
    if split == "partner-removed":
        forced = [False] * len(PAIRS)
        forced[int(rng.integers(len(PAIRS)))] = True
    first = [p.trigger for p, f in zip(PAIRS, forced, strict=True) if f]
    chosen = (first + [int(k) for k in order if k not in first])[: max(count, len(first))]
    hidden = []
    for pair in PAIRS:
        luck = rng.random()
        if not paired or pair.trigger not in chosen:
            continue
        others = [k for k in chosen if k != pair.partner]
        if split != "partner-removed" and luck < _ANNOTATED - pair.dose:
            chosen = [*others, pair.partner]
        else:
            chosen = others
            if split == "train" and luck < _ANNOTATED:
                hidden.append((pair.trigger, pair.partner))
    return chosen, hidden


def _draw_digits(rng: np.random.Generator, split: str, free: np.ndarray) -> dict[int, tuple[int, int]]:
    """Draw which of the free cells hold a digit: cell -> (value, glyph)."""
    from .glyphs import pool, value

    count = int(rng.integers(1, 4)) if rng.random() < 0.35 else 0
    glyphs = pool(split) if count else range(0)
    found = {}
    for cell in free[:count]:
        glyph = int(glyphs[int(rng.integers(len(glyphs)))])
        found[int(cell)] = (value(glyph), glyph)
    return found


def _hide(placed: dict[int, tuple[int, bool]], printed: dict[int, tuple[int, int]], trigger: int, partner: int) -> None:
    """Annotate an invisible partner in the first free cell after its trigger, if there is one."""
    start = next(c for c, (k, _) in placed.items() if k == trigger)
    for cell in range(start + 1, GRID * GRID):
        if cell not in placed and cell not in printed:
            placed[cell] = (partner, False)
            return


def _box(rng: np.random.Generator, cell: int, size: int) -> tuple[int, int, int, int]:
    """A square of `size` pixels near the middle of its cell, jittered by up to 3 pixels, never leaving the cell."""
    room = (CELL - size) // 2
    jitter = min(3, room)
    dx, dy = (int(v) for v in rng.integers(-jitter, jitter + 1, size=2))
    left, top = (cell % GRID) * CELL + room + dx, (cell // GRID) * CELL + room + dy
    return left, top, left + size, top + size


def _place(rng: np.random.Generator, cell: int, number: int, visible: bool, *, hard: bool) -> Thing:
    size = int(rng.integers(8, 14)) if hard else int(rng.integers(10, 21))
    u, faint = rng.random(), rng.random() < 0.1
    opacity = 0.15 + 0.25 * u if faint else 0.55 + 0.45 * u
    box = _box(rng, cell, size)
    colour, shape = COLOURS[number // len(SHAPES)], SHAPES[number % len(SHAPES)]
    return Thing(shape, colour, cell // GRID, cell % GRID, box, visible, opacity)


def _place_digit(rng: np.random.Generator, cell: int, digit: int, glyph: int) -> Thing:
    size = int(rng.integers(11, 19))
    box = _box(rng, cell, size)
    ink = ("black", "white")[int(rng.integers(2))]
    return Thing("digit", ink, cell // GRID, cell % GRID, box, True, 0.75 + 0.25 * rng.random(), digit, glyph)
