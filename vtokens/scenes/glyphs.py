"""The handwritten digits printed into scenes: the set bundled with scikit-learn (UCI ML digits, its test part)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from vtokens.core.extras import needs

_TRAINING = 1297  # the first that many of the 1797 glyphs are for training, the rest for every other split


@lru_cache(maxsize=1)
def _digits() -> tuple[np.ndarray, np.ndarray]:
    # Imported here: scikit-learn takes a second to import, and most scenes hold no digit.
    with needs("filter", "a scene with digits"):
        from sklearn.datasets import load_digits

    data = load_digits()
    return (data.images / 16.0).astype(np.float32), data.target.astype(np.int64)


def pool(split: str) -> range:
    """The numbers of the glyphs a split may use; the training split shares none with the others."""
    total = len(_digits()[1])
    return range(_TRAINING) if split == "train" else range(_TRAINING, total)


def value(glyph: int) -> int:
    """The digit that glyph number `glyph` shows, 0-9."""
    return int(_digits()[1][glyph])


def ink(glyphs: np.ndarray) -> np.ndarray:
    """The glyphs' ink, (n, 8, 8) float32 in 0-1, for an array of n glyph numbers."""
    return _digits()[0][glyphs]
