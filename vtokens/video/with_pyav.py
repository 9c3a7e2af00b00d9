"""Videos decoded by PyAV: from the key frame before each frame that is taken, one frame at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from vtokens.core.errors import shorten
from vtokens.core.extras import needs
from vtokens.video.backend import Opened
from vtokens.video.facts import Facts, Unreadable, stream_of
from vtokens.video.turning import turned


class _Lost(Exception):
    """A frame did not come, or came damaged."""


def opened(path: str, facts: Facts | None) -> Opened:
    """A file, opened by PyAV; arguments and errors as for decord."""
    with needs("video", "decoding a video"):
        import av  # noqa: F401
    if facts is None:
        raise ValueError("PyAV does not open the file")

    def take(indices: list[int]) -> np.ndarray:
        try:
            return _decoded(path, facts, indices, len(facts.stamps) > 0)
        except _Lost:  # a container that cannot be entered at a key frame exactly, or damage
            return _decoded(path, facts, indices, False)

    return Opened(facts.line, facts.height, facts.width, take)


def _decoded(path: str, facts: Facts, indices: list[int], seek: bool) -> np.ndarray:
    """The frames (T, H, W, 3) of these numbers, ascending.

    Args:
        path, facts: of the file.
        indices: the numbers.
        seek: whether to leave out what lies between, or to decode all from the beginning.

    Raises:
        _Lost: one is missing after a seek.
        Unreadable: one is missing, or has another size than the first.
    """
    import av

    found = np.empty((len(indices), facts.height, facts.width, 3), np.uint8)
    numbers = {int(stamp): number for number, stamp in enumerate(facts.stamps)}
    with av.open(path) as file:
        stream = stream_of(file, path)
        frames, at, damaged, colours = file.decode(stream), -1, False, _Colours()
        for slot, number in enumerate(indices):
            key = int(facts.keys[np.searchsorted(facts.keys, number, side="right") - 1])
            if seek and key > at + 1:
                file.seek(int(facts.stamps[key]), stream=stream)
                frames, damaged = file.decode(stream), False
            frame = None
            try:
                while at != number and (frame := next(frames, None)) is not None:
                    at = numbers.get(frame.pts, at) if numbers else at + 1
                    damaged = frame.is_corrupt or (damaged and not frame.key_frame)
                    if at > number:
                        break
            except av.error.FFmpegError:
                frame = None
            if frame is None or at != number or damaged:
                if seek:
                    raise _Lost
                raise Unreadable(
                    f"{shorten(path)} is damaged: frame {number} of {len(facts.line.times)}, shown at "
                    f"{facts.line.times[number]:.2f} s, cannot be decoded; start and end choose another part"
                )
            picture = turned(colours(frame), facts.matrix)
            if picture.shape != found.shape[1:]:
                raise Unreadable(
                    f"{shorten(path)} changes its size: frame {number} has {picture.shape[1]} x {picture.shape[0]} "
                    f"pixels and the first {facts.width} x {facts.height}; frames of one size are needed"
                )
            found[slot] = picture
    return found


class _Colours:
    """Makes RGB of frames, by FFmpeg's filter: PyAV's own conversion takes all colours for those of BT.601."""

    def __init__(self) -> None:
        self._graph: Any = None
        self._kind: Any = None

    def __call__(self, frame: Any) -> np.ndarray:
        """A frame as uint8 (H, W, 3)."""
        import av

        kind = (frame.format.name, frame.width, frame.height, frame.colorspace, frame.color_range)
        if kind != self._kind:
            self._graph, self._kind = av.filter.Graph(), kind
            ends = [
                self._graph.add_buffer(
                    width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
                ),
                self._graph.add("format", "rgb24"),
                self._graph.add("buffersink"),
            ]
            ends[0].link_to(ends[1])
            ends[1].link_to(ends[2])
            self._graph.configure()
        self._graph.push(frame)
        found: np.ndarray = self._graph.pull().to_ndarray()
        return found
