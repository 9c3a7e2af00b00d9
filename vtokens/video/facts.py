"""What PyAV tells of a video file before frames are taken: when they are shown, and what could go wrong."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from vtokens.core.errors import shorten
from vtokens.core.extras import needs
from vtokens.video.clip import Timeline
from vtokens.video.turning import UPRIGHT, Matrix
from vtokens.video.whole import missing

_NEAR = 0.005  # two average rates that differ by less are one, rounded by the container's clock


_NONE = np.iinfo(np.int64).min


class Unreadable(ValueError):
    """A fault of the file, whatever decodes it."""


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


def stream_of(file: Any, path: str) -> Any:
    """The video stream of an open file; covers of songs are none. Raises Unreadable."""
    for stream in file.streams.video:
        if "attached_pic" not in str(stream.disposition):
            stream.codec_context.thread_count = 1
            return stream
    others = ", ".join(sorted({f"{stream.type} ({stream.codec_context.name})" for stream in file.streams.audio}))
    raise Unreadable(f"{shorten(path)} holds no video, only {others or 'other data'}: a file with frames is needed")


def look(path: str) -> Facts:
    """What a file tells of itself: each packet is passed by, and the first frame decoded.

    Raises:
        MissingExtra: PyAV is not there.
        Unreadable: no video in it, cut off, or turned by an odd angle.
        av.error.FFmpegError: PyAV cannot open or decode it.
    """
    with needs("video", "telling what is in a video"):
        import av
    with av.open(path) as file:
        stream = stream_of(file, path)
        first = next(iter(file.decode(stream)), None)
        if first is None:
            raise Unreadable(f"{shorten(path)} holds no frame: it is empty, or cut off behind its header")
        size: tuple[int, int] = (first.height, first.width)
        matrix, bits = _matrix(first, path), max(part.bits for part in first.format.components)
        halved = any(part.width < first.width or part.height < first.height for part in first.format.components)
        codec, container = stream.codec_context.name, file.format.name
        unit, rate = stream.time_base, stream.average_rate
    with av.open(path) as file:  # anew: the first frame took packets along
        stamps, keys, cut = _packets(file, stream_of(file, path), path)
    later = np.minimum.accumulate(stamps[::-1])[::-1]  # the least stamp of a frame and those behind it in the file
    leading = bool((later[keys] < stamps[keys]).any())
    line, stamps, keys = _timeline(stamps, keys, unit, rate)
    height, width = size if matrix[0] else size[::-1]
    return Facts(
        container, codec, line, stamps, keys, height, width, matrix, bits, halved, leading, missing(path) or cut
    )


def _packets(file: Any, stream: Any, path: str) -> tuple[np.ndarray, np.ndarray, str]:
    """The time stamps of all frames as they come, int64, which are keys, and what is missing."""
    stamps, keys, seen, damaged = array("q"), array("b"), 0, 0
    for packet in file.demux(stream):
        if not packet.size:
            continue
        seen += 1
        damaged += packet.is_corrupt
        # What comes before the first key can never be decoded, and what an edit list leaves out is not shown.
        if packet.is_corrupt or packet.is_discard or not (keys or packet.is_keyframe):
            continue
        stamps.append(_NONE if packet.pts is None else packet.pts)
        keys.append(packet.is_keyframe)
    if not stamps:
        raise Unreadable(
            f"{shorten(path)} holds no frame that can be decoded: it is empty, or cut off behind its header"
        )
    # Transport streams are cut anywhere, and whole all the same.
    cut = f"{damaged} of its {seen} frames are in part" if damaged and "mpegts" not in file.format.name else ""
    return np.array(stamps, np.int64), np.flatnonzero(np.array(keys, bool)), cut


def _timeline(
    stamps: np.ndarray, keys: np.ndarray, unit: Fraction, rate: Fraction | None
) -> tuple[Timeline, np.ndarray, np.ndarray]:
    """When frames are shown, their stamps in that order, and the numbers of keys in it."""
    order = np.argsort(stamps, kind="stable")
    ordered = stamps[order]
    if (ordered == _NONE).any() or (np.diff(ordered) == 0).any():  # in no order that is known before they are decoded
        fps = float(rate or 24)
        return Timeline(np.arange(len(stamps)) / fps, fps), np.zeros(0, np.int64), np.zeros(1, np.int64)
    span = Fraction(int(ordered[-1] - ordered[0])) * unit
    fps = float((len(ordered) - 1) / span) if span else float(rate or 24)
    if rate and abs(float(rate) / fps - 1) < _NEAR:
        fps = float(rate)
    where = np.empty(len(order), np.int64)
    where[order] = np.arange(len(order))
    return Timeline((ordered - ordered[0]) * float(unit), fps), ordered, np.sort(where[keys])


def _matrix(frame: Any, path: str) -> Matrix:
    """How a frame is to be turned, of its display matrix; Unreadable for an angle between right ones."""
    side = frame.side_data.get("DISPLAYMATRIX")
    if side is None:
        return UPRIGHT
    a, b, _, c, d = (round(part / 65536, 2) for part in np.frombuffer(bytes(side), np.int32)[:5])
    found = (np.sign(a), np.sign(b), np.sign(c), np.sign(d)) if max(map(abs, (a, b, c, d))) else UPRIGHT
    if abs(a) + abs(b) == 0 or (a and b) or (c and d):
        raise Unreadable(f"{shorten(path)} is turned by an angle that is no multiple of 90 degrees")
    turned: Matrix = (int(found[0]), int(found[1]), int(found[2]), int(found[3]))
    return turned
