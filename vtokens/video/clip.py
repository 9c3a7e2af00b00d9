"""What is read of a video: frames, their numbers and their times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

_MILLISECONDS = 1000.0


@dataclass(frozen=True)
class Timeline:
    """When each frame of a video is shown.

    Attributes:
        times: float64 (T,), seconds behind the first frame, ascending.
        fps: frames a second, on average.
    """

    times: np.ndarray
    fps: float

    @property
    def duration(self) -> float:
        """Seconds, the last frame being shown as long as an average one."""
        return float(self.times[-1]) + 1 / self.fps

    @property
    def varies(self) -> bool:
        """Whether a frame is half a frame or more away from where a constant rate would show it."""
        return bool(np.abs(self.times * self.fps - np.arange(len(self.times))).max() > 0.5)


@dataclass(frozen=True)
class Clip:
    """Frames of a video.

    Attributes:
        frames: uint8 (T, H, W, 3), RGB, upright.
        metadata: the fields of transformers' `VideoMetadata`, to hand to a processor with `do_sample_frames=False`.
            Processors take `frames_indices / fps` for the time of a frame. Where the rate varies, no rate makes that
            true of frame numbers: `fps` is 1000 there, and `frames_indices` and `total_num_frames` are milliseconds.
        indices: the numbers of these frames in the video, from 0.
        seconds: when each is shown, behind the first frame of the video. Empty for frames that came without a rate.
    """

    frames: np.ndarray
    metadata: dict[str, Any]
    indices: tuple[int, ...] = ()
    seconds: tuple[float, ...] = ()

    def images(self) -> list[Image.Image]:
        """The frames as pictures, for models that know no videos."""
        return [Image.fromarray(frame) for frame in self.frames]


def arguments(clips: Sequence[Clip]) -> dict[str, Any]:
    """Keyword arguments of a processor that hand it videos, of which no frames are to be left out."""
    return {
        "videos": [clip.frames for clip in clips],
        "video_metadata": [clip.metadata for clip in clips],
        "do_sample_frames": False,
    }


def of_file(frames: np.ndarray, indices: Sequence[int], line: Timeline, backend: str) -> Clip:
    """A clip of frames (T, H, W, 3) that `backend` decoded at `indices` of a video with this timeline."""
    seconds = tuple(float(at) for at in line.times[np.asarray(indices)])
    height, width = frames.shape[1:3]
    rate = _MILLISECONDS if line.varies else line.fps
    numbers = [round(at * rate) for at in seconds] if line.varies else [int(at) for at in indices]
    metadata = {
        "total_num_frames": round(line.duration * rate) if line.varies else len(line.times),
        "fps": rate,
        "width": width,
        "height": height,
        "duration": line.duration,
        "video_backend": backend,
        "frames_indices": numbers,
    }
    return Clip(frames, metadata, tuple(int(at) for at in indices), seconds)
