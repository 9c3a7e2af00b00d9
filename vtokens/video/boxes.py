"""The boxes of an MP4 (QuickTime) file, of which it is made, one in another."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

_BEGINNINGS = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
_TO_ENTRIES = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd")
_LOCKED = (b"encv", b"drmi")
"""In place of a codec's name, by ISO's common encryption and by Apple's own."""


def is_mp4(head: bytes) -> bool:
    """Whether a file that begins with these 8 bytes or more is made of boxes."""
    return head[4:8] in _BEGINNINGS


def boxes(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """The kind of each box between two places, where its content begins, and where it says that it ends."""
    at = start
    while at + 8 <= end:
        file.seek(at)
        length, kind = struct.unpack(">I4s", file.read(8))
        inner = at + 8
        if length == 1:
            length, inner = int.from_bytes(file.read(8), "big"), at + 16
        if length < 8:  # to the end of the file, or none
            break
        at += length
        yield kind, inner, at


def encrypted(file: BinaryIO, size: int) -> bool:
    """Whether frames of an MP4 file of that many bytes can be decoded with a key only."""
    return any(kind in _LOCKED for kind in _kinds(file, 0, size, _TO_ENTRIES))


def _kinds(file: BinaryIO, start: int, end: int, path: tuple[bytes, ...]) -> Iterator[bytes]:
    """The kinds of the boxes that lie in boxes of these kinds, each in the one before."""
    for kind, inner, after in boxes(file, start, end):
        if not path:
            yield kind
        elif kind == path[0]:  # entries lie behind eight bytes, of the version and their number
            yield from _kinds(file, inner + (8 if kind == b"stsd" else 0), min(after, end), path[1:])
