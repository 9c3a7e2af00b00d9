"""Pictures and videos that are small as files and large, slow or strange when they are opened."""

from __future__ import annotations

import base64
import struct
import zlib
from io import BytesIO

import numpy as np
from PIL import Image


def url(data: bytes, kind: str = "image/png") -> str:
    """A data URL."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def saved(width: int = 8, height: int = 8, kind: str = "PNG", **options: object) -> bytes:
    """A picture of one colour as a file."""
    file = BytesIO()
    Image.new("RGB", (width, height), (200, 30, 60)).save(file, kind, **options)
    return file.getvalue()


def png(width: int, height: int, *chunks: bytes) -> bytes:
    """A PNG that says it has this size, and holds hardly any of it."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    rows = chunk(b"IDAT", zlib.compress(bytes(1 << 16)))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + rows + chunk(b"IEND", b"")


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def gif(width: int, height: int, frame: tuple[int, int] | None = None, frames: int = 1) -> bytes:
    """A GIF whose screen has this size, and whose frames perhaps another."""
    inner = frame or (width, height)
    one = b"\x21\xf9\x04\x00\x01\x00\x00\x00\x2c" + struct.pack("<HHHHB", 0, 0, *inner, 0) + b"\x02\x02\x44\x01\x00"
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6) + one * frames + b"\x3b"


def webp(width: int, height: int, kind: bytes = b"VP8X") -> bytes:
    """A WebP whose header says it has this size."""
    if kind == b"VP8X":
        head = b"\x02\0\0\0" + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        head += b"ANIM" + struct.pack("<IIH", 6, 0, 0)
    elif kind == b"VP8L":
        head = b"\x2f" + ((width - 1) | (height - 1) << 14).to_bytes(4, "little") + bytes(11)
    else:
        head = b"\x10\0\0\x9d\x01\x2a" + struct.pack("<HH", width, height) + bytes(6)
    size = 10 if kind == b"VP8X" else len(head)
    data = b"WEBP" + kind + struct.pack("<I", size) + head
    return b"RIFF" + struct.pack("<I", len(data)) + data


def scans(count: int) -> bytes:
    """A progressive JPEG whose last scan is there so many times."""
    file = BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + data[-2:]


def text_bomb() -> bytes:
    """A PNG whose comment takes a thousand times its size."""
    return png(8, 8, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 26), 9)))
