"""Videos decoded by PyAV: from the key frame before each frame that is taken, one frame at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from vtokens.core.errors import shorten
from vtokens.core.extras import needs
from vtokens.video.backend import Opened, Unreadable
from vtokens.video.facts import Facts
from vtokens.video.packets import opened_file, stream_of
from vtokens.video.turning import turned

_BT601 = (2, 5, 6)  # FFmpeg's numbers of unknown colours, which are taken for these, and of PAL's and NTSC's
_NARROW = (0, 1)  # unknown, and 16 to 235


class _Lost(Exception):
    """A frame did not come, or came damaged."""


def opened(path: str, facts: Facts | None) -> Opened:
    """A file, opened by PyAV; arguments and errors as for decord."""
    with needs("video", "decoding a video"):
        import av  # noqa: F401
    if facts is None:
        raise ValueError("PyAV does not open the file")

    def take(indices: list[int]) -> np.ndarray:
        if len(facts.stamps):
            try:
                return _decoded(facts.file, facts.stream, path, facts, indices, seek=True)
            except _Lost:  # a container that cannot be entered at a key frame exactly, or damage
                pass
        with opened_file(path, facts.bounds) as file:
            found = _decoded(file, stream_of(file, path, facts.bounds), path, facts, indices, seek=False)
        return found

    return Opened(facts.line, facts.height, facts.width, take)


def _decoded(file: Any, stream: Any, path: str, facts: Facts, indices: list[int], seek: bool) -> np.ndarray:
    """The frames (T, H, W, 3) of these numbers, ascending.

    Args:
        file, stream: opened by PyAV; at their beginning without `seek`.
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
    frames, at, damaged, colours = file.decode(stream), -2 if seek else -1, False, _Colours()
    for slot, number in enumerate(indices):
        key = int(facts.keys[np.searchsorted(facts.keys, number, side="right") - 1])
        frame = None
        try:
            if seek and key > at + 1:
                file.seek(int(facts.stamps[key]), stream=stream)
                frames, damaged = file.decode(stream), False
            while at != number and (frame := next(frames, None)) is not None:
                if facts.bounds is not None:
                    facts.bounds.check(path)
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
    """Makes RGB of frames, by PyAV's own conversion where it is right, else by FFmpeg's filter.

    The first takes all colours for those of BT.601 in the narrow range; where that is true both give the same, and the
    second costs a millisecond to set up and more for each frame.
    """

    def __init__(self) -> None:
        from av.video.reformatter import VideoReformatter

        self._plain: Any = VideoReformatter()
        self._graph: Any = None
        self._kind: Any = None

    def __call__(self, frame: Any) -> np.ndarray:
        """A frame as uint8 (H, W, 3), a view of what FFmpeg holds."""
        narrow = frame.format.name.startswith("yuv4") and frame.color_range in _NARROW
        if narrow and frame.colorspace in _BT601:
            made = self._plain.reformat(frame, format="rgb24", interpolation="BICUBIC")
        else:
            made = self._filtered(frame)
        [plane] = made.planes
        return np.ndarray((made.height, made.width, 3), np.uint8, plane, strides=(plane.line_size, 3, 1))

    def _filtered(self, frame: Any) -> Any:
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
        return self._graph.pull()
