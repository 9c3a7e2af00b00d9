"""Video files made from arrays without a video library: AVI with one JPEG a frame, which decord reads."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image


def write(path: Path, frames: Sequence[np.ndarray], fps: int = 10) -> str:
    """Write uint8 (H, W, 3) frames; returns the path as text."""
    height, width = frames[0].shape[:2]
    pictures = [_jpeg(frame) for frame in frames]
    most = max(map(len, pictures))
    head = struct.pack("<14I", 1_000_000 // fps, 0, 0, 0x10, len(frames), 0, 1, most, width, height, 0, 0, 0, 0)
    rate = (0, 0, 0, 0, 1, fps, 0, len(frames), most, 0xFFFFFFFF, 0)
    stream = b"vidsMJPG" + struct.pack("<IHH8I4H", *rate, 0, 0, width, height)
    form = struct.pack("<IiiHH4sIiiII", 40, width, height, 1, 24, b"MJPG", width * height * 3, 0, 0, 0, 0)
    header = _list(b"hdrl", _chunk(b"avih", head), _list(b"strl", _chunk(b"strh", stream), _chunk(b"strf", form)))
    index, offset = b"", 4
    for picture in pictures:
        index += struct.pack("<4sIII", b"00dc", 0x10, offset, len(picture))
        offset += 8 + len(picture) + len(picture) % 2
    movie = _list(b"movi", *[_chunk(b"00dc", picture) for picture in pictures])
    path.write_bytes(_chunk(b"RIFF", b"AVI " + header + movie + _chunk(b"idx1", index)))
    return str(path)


def _jpeg(frame: np.ndarray) -> bytes:
    data = BytesIO()
    Image.fromarray(frame).save(data, "JPEG", quality=95, subsampling=0)
    return data.getvalue()


def _chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def _list(name: bytes, *parts: bytes) -> bytes:
    return _chunk(b"LIST", name + b"".join(parts))
