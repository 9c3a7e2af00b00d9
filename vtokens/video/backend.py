"""What a backend gives when it has opened a file."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vtokens.core.errors import shorten
from vtokens.video.clip import Timeline


class Skipped(Exception):
    """A backend that can open a file and would be wrong about it."""


class Unreadable(ValueError):
    """A fault of the file, whatever decodes it."""


@dataclass(frozen=True)
class Bounds:
    """What a file of a stranger may cost, and that it names no other files: PyAV keeps to it, the others do not.

    Attributes:
        pixels: of a frame.
        all_pixels: of all frames that are taken.
        packets: of the video, one for each frame.
        end: of `time.monotonic`, when reading stops; asked about once a frame.
    """

    pixels: int
    all_pixels: int
    packets: int
    end: float

    def check(self, path: str, packets: int = 0) -> None:
        """Raise Unreadable if there are more packets, or it is past the end."""
        if packets > self.packets:
            raise Unreadable(f"{shorten(path)} has more than {self.packets:,} frames, the most that are allowed")
        if time.monotonic() > self.end:
            raise Unreadable(f"{shorten(path)} takes longer to read than is allowed")


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
