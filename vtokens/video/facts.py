"""What PyAV tells of a video file before frames are taken: when they are shown, and what could go wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from vtokens.core.errors import shorten
from vtokens.core.extras import needs
from vtokens.video.backend import Bounds, Unreadable
from vtokens.video.clip import Timeline
from vtokens.video.packets import UNKNOWN, opened_file, passed_by, stream_of
from vtokens.video.turning import UPRIGHT, Matrix
from vtokens.video.whole import missing

_NEAR = 0.005  # two average rates that differ by less are one, rounded by the container's clock


@dataclass(frozen=True)
class Facts:
    """A video file.

    Attributes:
        container: the names of its format, as FFmpeg has them ("mov,mp4,m4a,3gp,3g2,mj2").
        codec: "h264", "av1", ...
        line: when its frames are shown.
        stamps: int64 (T,), the same in units of the stream. Empty where the file does not tell.
        keys: int64, ascending, the frames that can be decoded without those before.
        height, width: as shown, when it has been turned.
        matrix: how it is to be turned: a pixel (x, y) goes to (a x + c y, b x + d y), of (a, b, c, d).
        bits: of a colour.
        halved: whether colours are stored at half the resolution.
        leading: whether frames that follow a key in the file are shown before it.
        cut: what is missing of it, "" if it is whole; what lies before the last of `keys` can be read.
        file, stream: as PyAV has opened them, read to the end.
        bounds: what reading it may cost.
    """

    container: str
    codec: str
    line: Timeline
    stamps: np.ndarray
    keys: np.ndarray
    height: int
    width: int
    matrix: Matrix
    bits: int
    halved: bool
    leading: bool
    cut: str
    file: Any
    stream: Any
    bounds: Bounds | None


@contextmanager
def look(path: str, bounds: Bounds | None = None) -> Iterator[Facts]:
    """What a file tells of itself: each packet is passed by, once, and the first frame decoded on the way.

    The file is open inside the block, so that what has been looked at can be decoded without opening it again.

    Raises:
        MissingExtra: PyAV is not there.
        Unreadable: no video in it, cut off, or turned by an odd angle.
        av.error.FFmpegError: PyAV cannot open or decode it.
    """
    with needs("video", "telling what is in a video"):
        import av  # noqa: F401
    with opened_file(path, bounds) as file:
        stream = stream_of(file, path, bounds)
        packets = passed_by(file, stream, path, bounds)
        first, stamps, keys = packets.first, packets.stamps, packets.keys
        matrix, bits = _matrix(first, path), max(part.bits for part in first.format.components)
        halved = any(part.width < first.width or part.height < first.height for part in first.format.components)
        later = np.minimum.accumulate(stamps[::-1])[::-1]  # the least stamp of a frame and those behind it in the file
        leading = bool((later[keys] < stamps[keys]).any())
        line, stamps, keys = _timeline(stamps, keys, stream.time_base, stream.average_rate)
        height, width = (first.height, first.width) if matrix[0] else (first.width, first.height)
        names, cut = (file.format.name, stream.codec_context.name), missing(path) or packets.cut
        yield Facts(*names, line, stamps, keys, height, width, matrix, bits, halved, leading, cut, file, stream, bounds)


def _timeline(
    stamps: np.ndarray, keys: np.ndarray, unit: Fraction, rate: Fraction | None
) -> tuple[Timeline, np.ndarray, np.ndarray]:
    """When frames are shown, their stamps in that order, and the numbers of keys in it.

    Times of a constant rate are those of the rate, where stamps only round them to the container's clock.
    """
    order = np.argsort(stamps, kind="stable")
    ordered = stamps[order]
    if (ordered == UNKNOWN).any() or (np.diff(ordered) == 0).any():  # in no order that is known before they are decoded
        fps = float(rate or 24)
        return Timeline(np.arange(len(stamps)) / fps, fps), np.zeros(0, np.int64), np.zeros(1, np.int64)
    span = Fraction(int(ordered[-1] - ordered[0])) * unit
    fps = float((len(ordered) - 1) / span) if span else float(rate or 24)
    if rate and abs(float(rate) / fps - 1) < _NEAR:
        fps = float(rate)
    where = np.empty(len(order), np.int64)
    where[order] = np.arange(len(order))
    times, even, tick = (ordered - ordered[0]) * float(unit), np.arange(len(ordered)) / fps, float(unit)
    # Milliseconds (Matroska, WebM) are too coarse for 1/30 s: frame 1 is stamped before its time, frame 2 behind it.
    if tick * fps < 0.5 and np.abs(times - even).max() <= tick * 1.001:
        times = even
    return Timeline(times, fps), ordered, np.sort(where[keys])


def _matrix(frame: Any, path: str) -> Matrix:
    """How a frame is to be turned, of its display matrix; Unreadable for an angle between right ones."""
    side = frame.side_data.get("DISPLAYMATRIX")
    if side is None:
        return UPRIGHT
    a, b, _, c, d = (round(part / 65536, 2) for part in np.frombuffer(bytes(side), np.int32)[:5])
    if abs(a) + abs(b) == 0 or (a and b) or (c and d):
        raise Unreadable(f"{shorten(path)} is turned by an angle that is no multiple of 90 degrees")
    return int(np.sign(a)), int(np.sign(b)), int(np.sign(c)), int(np.sign(d))
