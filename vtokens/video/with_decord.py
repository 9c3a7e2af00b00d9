"""Videos decoded by decord or decord2, where PyAV says that they are of those which it decodes right."""

from __future__ import annotations

import numpy as np

from vtokens.core.extras import needs
from vtokens.video.backend import Opened, Skipped
from vtokens.video.facts import Facts
from vtokens.video.turning import UPRIGHT

_CONTAINERS = ("mov", "matroska", "avi")
"""Formats that it was compared on; in MPEG transport streams it repeats frames."""


def opened(path: str, facts: Facts | None) -> Opened:
    """A file, opened by decord.

    Args:
        path: of a regular file.
        facts: what PyAV tells of it.

    Raises:
        MissingExtra: decord is not there.
        Skipped: it would be wrong about this file, or nobody can say.
        Exception: decord's own, for what it cannot open.
    """
    with needs("video", "decoding a video"):
        import decord
    if facts is None:
        raise Skipped("skipped, since only PyAV tells whether this file is one that decord decodes right")
    if reason := _wrong(facts):
        raise Skipped(f"skipped, {reason}")
    reader = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
    if len(reader) != len(facts.line.times):
        raise Skipped(f"skipped, since it sees {len(reader)} frames where there are {len(facts.line.times)}")

    def take(indices: list[int]) -> np.ndarray:
        batch = reader.get_batch(indices)  # of the framework that decord.bridge was set to
        return np.asarray(batch.asnumpy() if hasattr(batch, "asnumpy") else batch)

    return Opened(facts.line, facts.height, facts.width, take)


def _wrong(facts: Facts) -> str:
    """Why decord would be wrong about a file, "" if it would not."""
    if not any(name in facts.container for name in _CONTAINERS):
        return f"since it was never compared on {facts.container}"
    if facts.codec == "av1":
        return "since the FFmpeg in it knows no AV1"
    if facts.matrix != UPRIGHT:
        return "since the file is to be turned"
    if facts.line.varies:
        return "since the rate of the file varies"
    if facts.bits != 8 or (facts.halved and (facts.height % 2 or facts.width % 2)):
        return "since it rounds colours of more than 8 bits, and of odd sizes, in its own way"
    if facts.leading:
        return "since it counts wrong behind a key with leading pictures, of which the file has some"
    if facts.cut or not len(facts.stamps):
        return "since the file is incomplete, or does not say when its frames are shown"
    return ""
