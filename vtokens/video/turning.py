"""Frames turned as their file says."""

from __future__ import annotations

import numpy as np

Matrix = tuple[int, int, int, int]
UPRIGHT: Matrix = (1, 0, 0, 1)


def turned(frame: np.ndarray, matrix: Matrix) -> np.ndarray:
    """A frame (H, W, 3), or (W, H, 3) if that turns it by a quarter.

    Args:
        frame: as stored.
        matrix: (a, b, c, d), of -1, 0 and 1: the pixel (x, y) goes to (a x + c y, b x + d y).
    """
    a, b, c, d = matrix
    if not a:
        frame, a, d = frame.swapaxes(0, 1), c, b
    return frame[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
