"""The packets of a video stream, passed by once without being decoded."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from vtokens.core.errors import shorten
from vtokens.video.backend import Bounds, Unreadable

_ALONE = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,mpegts,mpeg,ogg,flv,asf"
"""FFmpeg's names of formats whose files hold all that they show; lists of other files, as of HLS, are none."""
UNKNOWN = np.iinfo(np.int64).min
"""The stamp of a frame of which the file does not tell when it is shown."""


class Packets(NamedTuple):
    """What lies in a stream.

    Attributes:
        first: its first frame, decoded.
        stamps: int64 (T,), when each frame is shown, as they come, in units of the stream; or UNKNOWN.
        keys: int64, ascending, which of them are keys.
        cut: what is missing, "" if nothing is.
    """

    first: Any
    stamps: np.ndarray
    keys: np.ndarray
    cut: str


@contextmanager
def opened_file(path: str, bounds: Bounds | None) -> Iterator[Any]:
    """A file, opened by PyAV and looked into by FFmpeg, within the bounds already then."""
    import av

    options = {}
    if bounds is not None:
        options = {"format_whitelist": _ALONE, "protocol_whitelist": "file", "max_pixels": str(bounds.pixels)}
    with av.open(path, options=options) as file:
        yield file


def passed_by(file: Any, stream: Any, path: str, bounds: Bounds | None = None) -> Packets:
    """What lies in a stream of an open file, which is read to its end once. Raises Unreadable."""
    stamps, keys, first, seen, damaged = array("q"), array("b"), None, 0, 0
    for packet in file.demux(stream):
        if bounds is not None:
            bounds.check(path, seen)
        if first is None:
            first = next(iter(packet.decode()), None)
        if not packet.size:
            continue
        seen += 1
        damaged += packet.is_corrupt
        # What comes before the first key can never be decoded, and what an edit list leaves out is not shown.
        if packet.is_corrupt or packet.is_discard or not (keys or packet.is_keyframe):
            continue
        stamps.append(UNKNOWN if packet.pts is None else packet.pts)
        keys.append(packet.is_keyframe)
    if first is None or not stamps:
        raise Unreadable(
            f"{shorten(path)} holds no frame that can be decoded: it is empty, or cut off behind its header"
        )
    # Transport streams are cut anywhere, and whole all the same.
    cut = f"{damaged} of its {seen} frames are in part" if damaged and "mpegts" not in file.format.name else ""
    return Packets(first, np.array(stamps, np.int64), np.flatnonzero(np.array(keys, bool)), cut)


def stream_of(file: Any, path: str, bounds: Bounds | None = None) -> Any:
    """The video stream of an open file; covers of songs are none. Raises Unreadable."""
    for stream in file.streams.video:
        if "attached_pic" not in str(getattr(stream, "disposition", "")):  # PyAV has told it since 14.1
            stream.codec_context.thread_count = 1
            options = {} if bounds is None else {"max_pixels": str(bounds.pixels)}
            if stream.codec_context.name == "mjpeg":  # whose decoder passes damage over unless it is told not to
                options["err_detect"] = "explode"
            if options:
                stream.codec_context.options = options
            return stream
    others = ", ".join(sorted({f"{stream.type} ({stream.codec_context.name})" for stream in file.streams.audio}))
    raise Unreadable(f"{shorten(path)} holds no video, only {others or 'other data'}: a file with frames is needed")
