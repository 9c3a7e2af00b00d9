"""What a backend gives when it has opened a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vtokens.video.clip import Timeline


class Skipped(Exception):
    """A backend that can open a file and would be wrong about it."""


class Unreadable(ValueError):
    """A fault of the file, whatever decodes it."""


@dataclass(frozen=True)
class Opened:
    """A file, opened by a backend.

    Attributes:
        line: when its frames are shown.
        height, width: of a frame.
        take: the frames of these numbers, ascending, as uint8 (T, H, W, 3).
    """

    line: Timeline
    height: int
    width: int
    take: Callable[[list[int]], np.ndarray]
