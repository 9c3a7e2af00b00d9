"""Frames that a caller has already: arrays and lists of pictures, from which some are taken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from vtokens.core.images import as_image
from vtokens.video.clip import Clip
from vtokens.video.sampling import evenly

ALLOWED = "the path of a video, uint8 frames (T, H, W, 3) in RGB, or a list of pictures of one size"
_RATE = 24.0  # transformers' own guess where no rate is known


def passed(source: Any, frames: int | None, fps: float | None, start: float | None, end: float | None) -> Clip:
    """A clip of frames that were given.

    Args:
        source: uint8 (T, H, W, 3), or a list of what `vtokens.core.images.as_image` takes.
        frames: at most this many, evenly; by default all.
        fps, start, end: refused, since nothing says when these frames are shown.

    Raises:
        TypeError, ValueError: something else, none, or pictures of several sizes.
    """
    whole = _frames(source)
    asked = {"fps": fps, "start": start, "end": end}
    if unknown := [f"{name}={value}" for name, value in asked.items() if value is not None]:
        raise ValueError(
            f"{', '.join(unknown)} is not possible for frames that are given: nothing says when each is shown. Choose "
            "them before, or give frames, which takes them evenly"
        )
    indices = evenly(len(whole), len(whole) if frames is None else frames)
    chosen = np.stack([np.asarray(whole[at]) for at in indices]) if isinstance(whole, list) else whole[indices]
    height, width = chosen.shape[1:3]
    metadata = {"total_num_frames": len(whole), "fps": _RATE, "width": width, "height": height}
    metadata |= {"duration": len(whole) / _RATE, "video_backend": None, "frames_indices": indices}
    return Clip(chosen, metadata, tuple(indices))


def _frames(source: Any) -> list[Image.Image] | np.ndarray:
    if isinstance(source, list | tuple):
        return _pictures(source)
    try:
        array = np.asarray(source.detach().cpu() if hasattr(source, "detach") else source.__array__())
    except (AttributeError, TypeError, RuntimeError) as error:
        raise TypeError(f"a video of type {type(source).__name__} is not allowed: {ALLOWED}") from error
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != 3 or not array.size:
        raise ValueError(f"a video of shape {array.shape} and type {array.dtype} is not allowed: {ALLOWED}")
    return array


def _pictures(source: Sequence[Any]) -> list[Image.Image]:
    if not source:
        raise ValueError(f"a video of no frames is not allowed: {ALLOWED}")
    pictures = [as_image(one) for one in source]
    for number, one in enumerate(pictures):
        if one.size != pictures[0].size:
            sizes = f"{one.width} x {one.height} pixels and the first {pictures[0].width} x {pictures[0].height}"
            raise ValueError(f"frame {number} has {sizes}: frames of one size are needed")
    return pictures
