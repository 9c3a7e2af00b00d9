"""Pictures and videos as lmms-eval's tasks give them, opened: PIL images and sampled frames."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vtokens.core.images import as_image, open_image
from vtokens.video import Clip, read

_PICTURES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


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
    """Frames taken evenly from a video, at most `most`.

    Args:
        value: a path, a dict with `url` or `path` (and `video_start`, `video_end`), or what `vtokens.video.read` takes.
        most: the number of frames; a shorter video gives all it has.
        start, end: seconds, to take the frames from a part of the video.

    Raises:
        OSError, ImportError, TypeError, ValueError: as `vtokens.video.read`.
    """
    if isinstance(value, Mapping):
        start, end = value.get("video_start", start), value.get("video_end", end)
        value = value.get("url") or value.get("path") or value.get("video")
    return read(value, frames=most, start=start, end=end)
