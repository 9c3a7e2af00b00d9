"""Video files made by PyAV, whose frames carry their number in plain sight."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

try:
    import av
except ImportError:
    av = None
needs_av = pytest.mark.skipif(av is None, reason="PyAV, which writes these files, is not installed")

BITS = 12


def drawn(count: int, height: int = 96, width: int = 192) -> list[np.ndarray]:
    """Frames (H, W, 3): a moving ramp of colours, and the bits of the number in black and white."""
    ramp = np.linspace(0, 255, width).astype(np.uint8)
    frames = []
    for number in range(count):
        frame = np.empty((height, width, 3), np.uint8)
        moved = np.roll(ramp, 3 * number)
        frame[:] = np.stack([moved, moved[::-1], np.full(width, 40 + number % 100, np.uint8)], axis=1)
        bits = [number >> bit & 1 for bit in range(BITS)]
        frame[height // 2 :] = np.repeat(np.array(bits, np.uint8) * 255, -(-width // BITS))[:width, None]
        frames.append(frame)
    return frames


def numbers(frames: np.ndarray) -> list[int]:
    """The numbers that upright frames (T, H, W, 3) show."""
    _, height, width, _ = frames.shape
    step = -(-width // BITS)
    fields = frames[:, 3 * height // 4, step // 2 :: step].mean(-1) > 128
    return [sum(int(bit) << place for place, bit in enumerate(row[:BITS])) for row in fields]


def write(
    path: Path,
    frames: Sequence[np.ndarray],
    codec: str = "libx264",
    rate: int = 10,
    times: Sequence[int] | None = None,
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
    **context: Any,
) -> str:
    """Write a video.

    Args:
        path: its suffix says the container.
        frames: uint8 (H, W, 3).
        codec: of FFmpeg.
        rate: frames a second.
        times: milliseconds, one a frame, where the rate varies.
        pix_fmt: how colours are stored.
        options: of the codec.
        container: options of the container.
        context: attributes of the codec's context.
    """
    with av.open(str(path), "w", options=container or {}) as file:
        stream = file.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt, stream.gop_size = pix_fmt, 12
        for name, value in context.items():
            setattr(stream.codec_context, name, value)
        if times is not None:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for number, frame in enumerate(frames):
            one = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            if times is not None:
                one.pts, one.time_base = times[number], Fraction(1, 1000)
            file.mux(stream.encode(one))
        file.mux(stream.encode())
    return str(path)


def turn(path: str, matrix: tuple[int, int, int, int]) -> str:
    """Have the header of an MP4 file say that a pixel (x, y) is shown at (a x + c y, b x + d y)."""
    data = bytearray(Path(path).read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # a header of version 0: the matrix lies behind 40 bytes
    a, b, c, d = (part << 16 for part in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    Path(path).write_bytes(data)
    return path


def sound(path: Path) -> str:
    """Write a file that holds a tone and no picture."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("pcm_s16le", rate=8000, layout="mono")
        tone = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        tone.sample_rate = 8000
        file.mux(stream.encode(tone))
        file.mux(stream.encode())
    return str(path)
