"""Reading frames of a video by whichever backend is there and right about the file."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from vtokens.core.errors import MissingExtra, shorten, unknown
from vtokens.core.extras import install
from vtokens.core.reading import regular
from vtokens.video import given, with_decord, with_pyav, with_torchcodec
from vtokens.video.backend import Bounds, Opened, Skipped, Unreadable
from vtokens.video.clip import Clip, Timeline, of_file
from vtokens.video.facts import Facts, look
from vtokens.video.sampling import check_asked, check_indices, choose, inside
from vtokens.video.whole import locked

BACKENDS: Mapping[str, Callable[[str, Facts | None], Opened]] = {
    "pyav": with_pyav.opened,
    "decord": with_decord.opened,
    "torchcodec": with_torchcodec.opened,
}
"""In the order in which they are tried: PyAV, which looks at each file first, has it open by then."""
_MOST = 8 << 30
"""Bytes of frames: more was hardly meant, and would not fit."""
_RATIO = 200
"""Of the sides of a frame: processors of models take no longer ones."""


def read(
    source: Any,
    frames: int | None = None,
    fps: float | None = None,
    start: float | None = None,
    end: float | None = None,
    backend: str = "auto",
    indices: Sequence[int] | None = None,
    bounds: Bounds | None = None,
) -> Clip:
    """Frames of a video, the same whichever backend decodes it.

    A file is read by seeking: memory holds the frames that are taken, and one more.

    Args:
        source: the path of a video. Frames that are there already pass through, fewer if `frames` says so: uint8
            (T, H, W, 3), or a list of pictures of one size.
        frames: how many to take, evenly from the first to the last; all if there are fewer.
        fps: or how many a second: those on screen at the beginning and each 1/fps seconds later, none twice.
        start, end: seconds, to take them from a part.
        backend: "pyav", "decord", "torchcodec"; by default the first of them that can be imported, opens this file and
            is right about it. PyAV refuses damage inside a frame that its decoder notices; the others hide it.
        indices: or the numbers of the frames of a file, rising, in place of `frames`, `fps`, `start` and `end`.
        bounds: what a file of a stranger may cost; only PyAV keeps to it.

    Raises:
        OSError: no such file, or no regular one.
        TypeError, ValueError: a wrong argument; a file that holds no video, is encrypted, cut off or damaged, or that
            none of the backends can read, with what each of them said.
        MissingExtra: there is no backend.
    """
    is_file = isinstance(source, str | os.PathLike)
    check_asked(frames, fps, start, end, all_frames=not is_file or indices is not None)
    if indices is not None:
        check_indices(indices, is_file, frames=frames, fps=fps, start=start, end=end)
    _check_backend(backend)
    if bounds is not None and backend != "pyav":
        raise ValueError(f"backend={backend!r} keeps to no bounds: backend='pyav' does")
    if not is_file:
        return given.passed(source, frames, fps, start, end)

    def ask(line: Timeline) -> list[int]:
        return choose(line, frames, fps, start, end) if indices is None else inside(indices, line)

    def until(line: Timeline) -> float | None:
        return end if indices is None else float(line.times[min(int(indices[-1]), len(line.times) - 1)])

    name, line, chosen, taken = _first(os.fspath(source), backend, until, ask, bounds)
    return of_file(np.ascontiguousarray(taken), chosen, line, name)


def timeline(source: str | os.PathLike[str], backend: str = "auto", end: float | None = None) -> Timeline:
    """When each frame of a file is shown, by the backend that would decode it; nothing is decoded.

    Args:
        source, backend: as in `read`.
        end: seconds, up to which it will be read: an incomplete file is refused where that is not there.

    Raises:
        OSError, ValueError, MissingExtra: as `read`.
    """
    _check_backend(backend)
    return _first(os.fspath(source), backend, lambda line: end, lambda line: [])[1]


def _check_backend(backend: str) -> None:
    if backend != "auto" and backend not in BACKENDS:
        raise unknown("backend", backend, [*BACKENDS, "auto"])


def _first(
    path: str,
    backend: str,
    until: Callable[[Timeline], float | None],
    ask: Callable[[Timeline], list[int]],
    bounds: Bounds | None = None,
) -> tuple[str, Timeline, list[int], np.ndarray]:
    """What the first backend that is right about a file gives: its name, the timeline, numbers and frames.

    Args:
        until: the second up to which it is read; None to its end.
        ask: which frames are wanted; if none, nothing is decoded.
        bounds: what the file may cost.
    """
    if not regular(path).st_size:
        raise Unreadable(f"{shorten(path)} is empty: it holds 0 bytes, and a video is needed")
    if locked(path):
        raise Unreadable(f"{shorten(path)} is encrypted: its frames need a key, so a copy in the clear is needed")
    said: dict[str, Exception] = {}
    facts = None
    with ExitStack() as held:
        try:
            facts = held.enter_context(look(path, bounds))
        except Unreadable:
            raise
        except (
            Exception
        ) as error:  # whatever a package raises that does not import, and FFmpeg's errors of many classes
            said["pyav"] = error
        end = until(facts.line) if facts else None
        if facts and facts.cut and (end is None or end >= facts.line.times[facts.keys[-1]]):
            raise Unreadable(
                f"{shorten(path)} is incomplete: {facts.cut}. What is there can be read with an end "
                f"below {facts.line.times[facts.keys[-1]]:.2f} (seconds)"
            )
        for name in BACKENDS if backend == "auto" else [backend]:
            if name in said:
                continue
            try:
                opened = BACKENDS[name](path, facts)
            except Exception as error:
                said[name] = error
                continue
            _check_size(path, opened)
            indices = ask(opened.line)
            _check_memory(indices, opened, bounds)
            try:
                taken = opened.take(indices) if indices else np.empty((0, opened.height, opened.width, 3), np.uint8)
            except Unreadable:
                raise
            except Exception as error:
                said[name] = error
                continue
            return name, opened.line, indices, taken
    raise _nobody(path, said, backend)


def _check_size(path: str, opened: Opened) -> None:
    if max(opened.height, opened.width) > _RATIO * min(opened.height, opened.width):
        raise Unreadable(
            f"{shorten(path)} has frames of {opened.width} x {opened.height} pixels: one side may be at most {_RATIO} "
            "times the other"
        )


def _check_memory(indices: list[int], opened: Opened, bounds: Bounds | None) -> None:
    needed = len(indices) * opened.height * opened.width * 3
    if bounds is not None and needed > 3 * bounds.all_pixels:
        raise Unreadable(
            f"{len(indices):,} frames of {opened.width} x {opened.height} pixels have more than the "
            f"{bounds.all_pixels:,} pixels that are allowed"
        )
    if needed > _MOST:
        raise ValueError(
            f"{len(indices):,} frames of {opened.width} x {opened.height} pixels take {needed / 2**30:,.1f} GiB, and "
            f"{_MOST >> 30} are allowed: take at most {_MOST // (opened.height * opened.width * 3):,} at once"
        )


def _nobody(path: str, said: Mapping[str, Exception], backend: str) -> Exception:
    """The error that says what each backend said."""
    asked = [*BACKENDS] if backend == "auto" else [backend]
    told = "; ".join(f"{name}: {_line(said[name])}" for name in asked if name in said)
    if all(isinstance(said[name], MissingExtra) for name in asked):
        return MissingExtra(f"reading a video needs one of {', '.join(asked)}: {install('video')} ({told})")
    missing = [name for name in asked if isinstance(said[name], MissingExtra)]
    remedy = f". What is missing comes with {install('video')}" if missing else ""
    if isinstance(said.get("pyav"), MissingExtra):  # without it hardly anything is read, and it is enough
        remedy = f". PyAV is needed: pip install 'av>=14', or {install('video')}"
    elif type(said.get("pyav")).__name__ == "InvalidDataError":  # who reads less would read it no better
        told = "; ".join(
            f"{one}: {_line(why)}" for one, why in said.items() if not isinstance(why, MissingExtra | Skipped)
        )
        remedy = f". It {_instead(path)}"
    return ValueError(f"cannot read the video {shorten(path)}: {told}{remedy}")


def _instead(path: str) -> str:
    """What a file holds that is no video to PyAV."""
    with open(path, "rb") as file:
        begin = file.read(512)
    text = all(byte >= 32 or byte in b"\t\n\r\f" for byte in begin)
    return "holds text" if text else "is no video, or was cut off before the part that says how to read it"


def _line(error: Exception) -> str:
    """What an error says, on one line, without the trace that decord adds."""
    text = str(error).split("Stack trace")[0] or type(error).__name__
    if isinstance(error, MissingExtra):
        return "not installed" if "not installed" in text else " ".join(text.split())
    if isinstance(error, Skipped):
        return text
    return shorten(" ".join(text.split()), 300)[1:-1]
