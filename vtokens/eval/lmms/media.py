"""Pictures and videos as lmms-eval's tasks give them, opened: PIL images and sampled frames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vtokens.core.extras import needs
from vtokens.core.images import as_image, open_image

_PICTURES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


@dataclass(frozen=True)
class Clip:
    """Frames of a video.

    Attributes:
        frames: uint8 (T, H, W, 3), RGB.
        metadata: the fields of transformers' `VideoMetadata`: which frames these are, and of how many.
    """

    frames: np.ndarray
    metadata: dict[str, Any]

    def images(self) -> list[Image.Image]:
        """The frames as pictures, for models that know no videos."""
        return [Image.fromarray(frame) for frame in self.frames]


def content(visual: Any) -> dict[str, Any]:
    """One entry of a task's `doc_to_visual` as a chat part; a string is a picture or a video by its suffix.

    Raises:
        TypeError: neither an image, a path, an array of frames nor a dict.
    """
    if isinstance(visual, Image.Image):
        return {"type": "image", "url": visual}
    if isinstance(visual, str | Path):
        return {"type": "image" if Path(visual).suffix.lower() in _PICTURES else "video", "url": str(visual)}
    if isinstance(visual, Mapping):
        if "array" in visual:
            return {"type": "audio", "url": visual}
        return {"type": visual.get("type", "image" if "bytes" in visual else "video"), "url": visual}
    if isinstance(visual, np.ndarray):
        return {"type": "video", "url": visual}
    raise TypeError(
        f"a visual of type {type(visual).__name__} is not allowed: a PIL image, the path of a picture or video, "
        "a dict with one of these, or an array of frames (T, H, W, 3)"
    )


def picture(value: Any) -> Image.Image:
    """An image, RGB and upright, from what `vtokens.core.images` takes or what `datasets` stores for an undecoded one.

    Raises:
        OSError: missing or damaged; names the file.
        TypeError, ValueError: something else.
    """
    if isinstance(value, Mapping):
        value = BytesIO(value["bytes"]) if value.get("bytes") is not None else value.get("url") or value.get("path")
    if isinstance(value, BytesIO):
        return open_image(value, "embedded in a document")
    return as_image(value)


def clip(value: Any, most: int, start: float | None = None, end: float | None = None) -> Clip:
    """Decode a video with decord and take frames evenly from it, at most `most`.

    Args:
        value: a path, a dict with `url` or `path` (and `video_start`, `video_end`), or frames as uint8 (T, H, W, 3).
        most: the number of frames; a shorter video gives all it has.
        start, end: seconds, to take the frames from a part of the video.

    Raises:
        FileNotFoundError: no such file.
        ImportError: decord is not installed.
        TypeError, ValueError: something else than a video, an empty one, or a part outside of it.
    """
    if isinstance(value, Mapping):
        start, end = value.get("video_start", start), value.get("video_end", end)
        value = value.get("url") or value.get("path") or value.get("video")
    if isinstance(value, np.ndarray):
        total, fps, pick = len(value), 24.0, value.__getitem__  # transformers' own guess where no rate is known
    elif isinstance(value, str | Path):
        reader = _reader(str(value))
        total, fps, pick = len(reader), float(reader.get_avg_fps()), lambda at: reader.get_batch(at).asnumpy()
    else:
        raise TypeError(f"a video of type {type(value).__name__} is not allowed: a path, or frames as an array")
    indices = sample(total, most, fps, start, end)
    frames = np.asarray(pick(indices))
    height, width = frames.shape[1:3]
    metadata = {"total_num_frames": total, "fps": fps, "width": width, "height": height, "duration": total / fps}
    return Clip(frames, metadata | {"frames_indices": indices, "video_backend": "decord"})


def sample(total: int, most: int, fps: float, start: float | None = None, end: float | None = None) -> list[int]:
    """The numbers of at most `most` frames, evenly from the first to the last of `total` (or of the part asked for).

    Raises:
        ValueError: no frame to take, or a part that is empty or begins behind the end.
    """
    if total < 1 or most < 1:
        raise ValueError(f"cannot take {most} of {total} frames: both must be at least 1")
    first = int((start or 0.0) * fps)
    last = total - 1 if end is None else min(int(end * fps), total - 1)
    if not 0 <= first <= last:
        raise ValueError(f"the part from {start} to {end} s is not in a video of {total / fps:.2f} s")
    return [int(at) for at in np.linspace(first, last, min(most, last - first + 1), dtype=int)]


def _reader(path: str) -> Any:
    with needs("video", "decoding a video"):
        import decord
    if not Path(path).is_file():
        raise FileNotFoundError(f"no such video: {path!r}")
    try:
        return decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
    except (decord.DECORDError, RuntimeError) as error:
        raise ValueError(f"decord cannot read the video {path!r}: {error}") from error
