"""Frames a second of `vtokens.video.read`, plain decord and plain PyAV in the same run: same files, frames, threads.

python benchmarks/video_reading.py --rounds 7 --output benchmarks/results/video-reading-cpu

The rivals are what a user would write: decord's `get_batch` of the numbers, and PyAV decoding from the beginning to the
last of them. Each opens the file anew, as `read` does, which also finds out when frames are shown, how they are turned,
and whether the file is whole.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import av
import decord
import numpy as np
import torch

from benchmarks.common import Clock, cpu_name, load_average, ratio, rounds, summary, write
from benchmarks.record import record
from vtokens import video

SHAPES = ((16, 16, 96, 96), (300, 300, 180, 320), (1500, 32, 180, 320), (150, 150, 480, 854), (600, 32, 480, 854))
"""Frames in the file, frames taken, height and width."""


def made(path: Path, count: int, height: int, width: int) -> str:
    """An H.264 file of a texture that moves, 25 frames a second, a key frame every two seconds."""
    texture = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    texture = np.kron(texture, np.ones((8, 8, 1), np.uint8))
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25, options={"preset": "ultrafast", "threads": "1"})
        stream.height, stream.width, stream.pix_fmt, stream.gop_size = height, width, "yuv420p", 50
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(np.roll(texture, 2 * number, axis=1), format="rgb24")
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return str(path)


def by_decord(path: str, indices: list[int]) -> np.ndarray:
    """Plain decord."""
    reader: np.ndarray = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1).get_batch(indices).asnumpy()
    return reader


def by_pyav(path: str, indices: list[int]) -> np.ndarray:
    """Plain PyAV."""
    wanted, found = set(indices), []
    with av.open(path) as file:
        stream = file.streams.video[0]
        stream.codec_context.thread_count = 1
        for number, frame in enumerate(file.decode(stream)):
            if number in wanted:
                found.append(frame.to_ndarray(format="rgb24"))
            if number == indices[-1]:
                break
    return np.stack(found)


def measured(path: str, taken: int, clock: Clock, count: int) -> list[dict[str, object]]:
    """A row for each way of reading `taken` frames of a file."""
    indices = list(video.read(path, frames=taken).indices)
    ways: dict[str, Callable[[], np.ndarray]] = {
        "decord": lambda: by_decord(path, indices),
        "pyav": lambda: by_pyav(path, indices),
        "read": lambda: video.read(path, frames=taken).frames,
        "read, by decord": lambda: video.read(path, frames=taken, backend="decord").frames,
    }
    first = by_decord(path, indices).astype(int)
    apart = {name: int(np.abs(way() - first).max()) for name, way in ways.items()}
    times = rounds({name: (lambda way=way: clock.time(way)) for name, way in ways.items()}, count)
    return [
        {
            "run": name,
            "seconds": summary(spent),
            "frames_per_second": summary([taken / one for one in spent]),
            "over_decord": ratio(times["decord"], spent),
            "over_pyav": ratio(times["pyav"], spent),
            "grey_levels_apart": apart[name],
        }
        for name, spent in times.items()
    ]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    clock = Clock(torch.device("cpu"), 1)
    told = record([])  # what the films show follows from the frame alone
    conditions = {
        **told,
        "versions": {**told["versions"], "av": av.__version__, "decord": decord.__version__},
        "device": cpu_name(),
        "threads": 1,
        "cores": os.cpu_count(),
        "load_average": {"at_start": load_average()},
        "clock": clock.kind,
        "rounds": options.rounds,
    }
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for count, taken, height, width in SHAPES:
            name = f"{taken:,} of {count:,}, {height} x {width}"
            path = made(Path(folder, f"{count}.mp4"), count, height, width)
            for row in measured(path, taken, clock, options.rounds):
                rows.append({"shape": name, **row})
                told = [row[key]["median"] for key in ("frames_per_second", "over_decord", "over_pyav")]
                over = f"{told[1]:.2f} of decord, {told[2]:.2f} of PyAV"
                print(f"{name:24} {row['run']:15} {told[0]:8.0f} frames/s, {over}", flush=True)
    if options.output:
        write(options.output, {"conditions": conditions, "rows": rows})


if __name__ == "__main__":
    main()
