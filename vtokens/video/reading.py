"""Reading frames of a video by whichever backend is there and right about the file."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np

from vtokens.core.errors import MissingExtra, shorten, unknown
from vtokens.core.extras import install
from vtokens.core.reading import regular
from vtokens.video import given, with_decord, with_pyav, with_torchcodec
from vtokens.video.backend import Opened, Skipped, Unreadable
from vtokens.video.clip import Clip, of_file
from vtokens.video.facts import Facts, look
from vtokens.video.sampling import check_asked, choose
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

    Raises:
        OSError: no such file, or no regular one.
        TypeError, ValueError: a wrong argument; a file that holds no video, is encrypted, cut off or damaged, or that
            none of the backends can read, with what each of them said.
        MissingExtra: there is no backend.
    """
    is_file = isinstance(source, str | os.PathLike)
    check_asked(frames, fps, start, end, all_frames=not is_file)
    if backend != "auto" and backend not in BACKENDS:
        raise unknown("backend", backend, [*BACKENDS, "auto"])
    if not is_file:
        return given.passed(source, frames, fps, start, end)
    path = os.fspath(source)
    if not regular(path).st_size:
        raise Unreadable(f"{shorten(path)} is empty: it holds 0 bytes, and a video is needed")
    if locked(path):
        raise Unreadable(f"{shorten(path)} is encrypted: its frames need a key, so a copy in the clear is needed")
    said: dict[str, Exception] = {}
    facts = None
    with ExitStack() as held:
        try:
            facts = held.enter_context(look(path))
        except Unreadable:
            raise
        except (
            Exception
        ) as error:  # whatever a package raises that does not import, and FFmpeg's errors of many classes
            said["pyav"] = error
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
            indices = choose(opened.line, frames, fps, start, end)
            _check_memory(indices, opened)
            try:
                taken = opened.take(indices)
            except Unreadable:
                raise
            except Exception as error:
                said[name] = error
                continue
            return of_file(np.ascontiguousarray(taken), indices, opened.line, name)
    raise _nobody(path, said, backend)


def _check_size(path: str, opened: Opened) -> None:
    if max(opened.height, opened.width) > _RATIO * min(opened.height, opened.width):
        raise Unreadable(
            f"{shorten(path)} has frames of {opened.width} x {opened.height} pixels: one side may be at most {_RATIO} "
            "times the other"
        )


def _check_memory(indices: list[int], opened: Opened) -> None:
    needed = len(indices) * opened.height * opened.width * 3
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
    return ValueError(f"cannot read the video {shorten(path)}: {told}{remedy}")


def _line(error: Exception) -> str:
    """What an error says, on one line, without the trace that decord adds."""
    text = str(error).split("Stack trace")[0] or type(error).__name__
    if isinstance(error, MissingExtra):
        return "not installed" if "not installed" in text else " ".join(text.split())
    if isinstance(error, Skipped):
        return text
    return shorten(" ".join(text.split()), 300)[1:-1]
