"""Whether a video file is there to its end, and in the clear, by what its container tells of its parts."""

from __future__ import annotations

import os
import struct
from typing import BinaryIO

from vtokens.video.boxes import boxes, encrypted, is_mp4

_SEGMENT = b"\x18\x53\x80\x67"
_EBML = b"\x1a\x45\xdf\xa3"


def missing(path: str) -> str:
    """What is missing of a file in MP4 (QuickTime), AVI or Matroska (WebM); "" of others, which tell no length."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(12)
        file.seek(0)
        if is_mp4(head):
            # Where the last box that holds pictures, or tells of them, says that it ends.
            ends = [end for kind, _, end in boxes(file, 0, size) if kind in (b"mdat", b"moov", b"moof")]
            told = ends[-1] if ends else 0
        elif head[:4] == b"RIFF" and head[8:] == b"AVI ":
            told = 8 + struct.unpack("<I", head[4:8])[0]
        elif head[:4] == _EBML:
            told = _segment(file)
        else:
            told = 0
    return f"it holds {size:,} of the {told:,} bytes that it says it has" if told > size else ""


def locked(path: str) -> bool:
    """Whether a file is an MP4 whose frames are encrypted."""
    with open(path, "rb") as file:
        return is_mp4(file.read(8)) and encrypted(file, os.path.getsize(path))


def _segment(file: BinaryIO) -> int:
    """Where the segment of a Matroska file says that it ends; 0 if it says nothing, as live recordings do."""
    file.read(4)
    file.seek(_number(file), os.SEEK_CUR)
    if file.read(4) != _SEGMENT:
        return 0
    length = _number(file)
    return file.tell() + length if length else 0


def _number(file: BinaryIO) -> int:
    """A number of Matroska: the zeros before the first one-bit tell how many bytes follow; 0 for "unknown"."""
    first = file.read(1)
    if not first or not first[0]:
        return 0
    more = 8 - first[0].bit_length()
    value = int.from_bytes(bytes([first[0] & (0x7F >> more)]) + file.read(more), "big")
    return 0 if value == (1 << 7 * (more + 1)) - 1 else value
