"""Printed words in scenes: where they are put, and what is asked to have them read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .additions import Sign
from .letters import ALPHABET, HIGH, INK, WIDE
from .lexicon import words
from .world import CELL, COLUMNS, GRID, PATCH, ROWS, Scene, Thing, stream

#: Kinds about printed words; scenes asked them hold one to three.
READING = ("sign", "sign_at", "sign_where", "spell")
NO_LETTER = len(ALPHABET)  #: the number of a patch without a letter

_SIDE = CELL // PATCH
_STREAM, _INK = 100, 103
_MOST = 3

Asked = tuple[str, str]


def draw_signs(scene: Scene) -> tuple[Sign, ...]:
    """One to three printed words for free cells of `scene`, in raster order; none where no cell is free."""
    rng = stream(scene.split, scene.seed, scene.index, scene.attempt, _STREAM)
    taken, pool, found = set(scene.taken), list(words(scene.split)), list[Sign]()
    last = GRID - 1
    for _ in range(int(rng.integers(1, _MOST + 1))):
        word = pool.pop(int(rng.integers(len(pool))))
        cells = -(-len(word) // _SIDE)
        free = [c for c in range(GRID * GRID) if c % GRID + cells <= GRID and not taken & {*range(c, c + cells)}]
        line, spare, dark = int(rng.integers(_SIDE)), cells * _SIDE - len(word), bool(rng.integers(2))
        start, luck = int(rng.integers(spare + 1)), rng.random()
        if free:
            cell = free[int(luck * len(free))]
            # Nor are the neighbours free any more: two words side by side would read as one.
            before, behind = cell - (cell % GRID > 0), cell + cells - 1
            taken |= {*range(before, behind + 1 + (behind % GRID < last))}
            found.append(Sign(word, cell // GRID, cell % GRID, cells, line, start, dark))
    return tuple(sorted(found, key=lambda s: (s.row, s.column)))


def patch_letters(scenes: Sequence[Scene]) -> np.ndarray:
    """The letter that each patch shows: int64 (len(scenes), 12, 12), 0 for a to 25 for z, else NO_LETTER."""
    found = np.full((len(scenes), GRID * _SIDE, GRID * _SIDE), NO_LETTER, dtype=np.int64)
    for n, scene in enumerate(scenes):
        for sign in scene.signs:
            first = sign.column * _SIDE + sign.start
            row = sign.row * _SIDE + sign.line
            found[n, row, first : first + len(sign.word)] = [ALPHABET.index(letter) for letter in sign.word]
    return found


def print_words(picture: np.ndarray, scene: Scene) -> None:
    """Print the words of a scene on its picture, float32 (96, 96, 3), in place; plates stay inside their cells."""
    rng = stream(scene.split, scene.seed, scene.index, scene.attempt, _INK) if scene.signs else None
    for sign in scene.signs:
        assert rng is not None
        dim, bright = (int(v) for v in rng.integers(0, 40, 2))
        ink, plate = (np.float32(v) for v in ((235 - bright, 15 + dim) if sign.dark else (15 + dim, 235 - bright)))
        left, top = sign.column * CELL + sign.start * PATCH, sign.row * CELL + sign.line * PATCH
        strip = slice(sign.column * CELL, (sign.column + sign.cells) * CELL)
        rows = slice(max(sign.row * CELL, top - 2), min((sign.row + 1) * CELL, top + PATCH + 2))
        right = left + len(sign.word) * PATCH
        picture[rows, max(strip.start, left - 2) : min(strip.stop, right + 2)] = plate
        top += sign.line == 0  # the plate's edge is the cell's
        for n, letter in enumerate(sign.word):
            x = left + n * PATCH + 1
            picture[top : top + HIGH, x : x + WIDE][INK[ALPHABET.index(letter)]] = ink


def place(sign: Sign) -> str:
    """The cell of the first letter, such as 'row1 column2'."""
    return f"{ROWS[sign.row]} {COLUMNS[sign.column]}"


def sign(scene: Scene, seen: Sequence[Thing], rng: np.random.Generator) -> Asked | None:
    """What the one sign says."""
    return ("What does the sign say?", scene.signs[0].word) if len(scene.signs) == 1 else None


def spell(scene: Scene, seen: Sequence[Thing], rng: np.random.Generator) -> Asked | None:
    """The letters of the one sign."""
    return ("Spell the word on the sign.", " ".join(scene.signs[0].word)) if len(scene.signs) == 1 else None


def sign_at(scene: Scene, seen: Sequence[Thing], rng: np.random.Generator) -> Asked | None:
    """What is printed from a place on."""
    if not scene.signs:
        return None
    chosen = scene.signs[int(rng.integers(len(scene.signs)))]
    return f"What is printed at {place(chosen)}?", chosen.word


def sign_where(scene: Scene, seen: Sequence[Thing], rng: np.random.Generator) -> Asked | None:
    """Where a word begins that is there in half of the cases; else the answer is 'nowhere'."""
    if not scene.signs:
        return None
    if rng.random() < 0.5:
        chosen = scene.signs[int(rng.integers(len(scene.signs)))]
        return f"Where is the word {chosen.word}?", place(chosen)
    others = [word for word in words(scene.split) if all(word != s.word for s in scene.signs)]
    return f"Where is the word {others[int(rng.integers(len(others)))]}?", "nowhere"


ASK = {"sign": sign, "sign_at": sign_at, "sign_where": sign_where, "spell": spell}
