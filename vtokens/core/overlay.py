"""Pictures of what was kept: dropped patches are dimmed, by the share of decoder layers that never saw them.

Patches that the vision tower merged are as bright as what they were merged into, and lines run around them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from vtokens.core.kept import KeptPicture

_DIM = np.array([24.0, 24.0, 32.0])
_LINE = np.array([255.0, 255.0, 255.0])
_LEAST = 0.14
"""How bright a patch stays that no layer saw, so that the scene can still be made out."""


def seen_image(processor: Any, image: Image.Image) -> Image.Image:
    """The part of `image` that the model is given, in the shape its patch grid covers.

    A processor that crops (LLaVA 1.5 cuts the centre square) is followed, and one that puts pictures in a corner of a
    canvas of tiles (Llama 3.2 Vision); others see the whole picture.
    """
    image = image.convert("RGB")
    settings = getattr(processor, "image_processor", processor)
    if getattr(settings, "max_image_tiles", None) is not None:
        return _on_canvas(settings, image)
    if not getattr(settings, "do_center_crop", False):
        return image
    size, box = cut(settings, image.size)
    return image.resize(size, Image.Resampling.BICUBIC).crop(box)


def cut(settings: Any, size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int, int, int]]:
    """What an image processor that crops makes of a picture of `size` (width, height).

    Returns:
        (width, height) that it scales to; and (left, top, right, bottom) of what it keeps of that, in pixels, which may
        lie outside where it pads.
    """
    to, crop = settings.size, settings.crop_size
    edge = to.get("shortest_edge") if hasattr(to, "get") else to["shortest_edge"]
    if edge:
        wide, high = (int(edge * side / min(size)) for side in size)  # cut off, as transformers does
    else:
        wide, high = int(to["width"]), int(to["height"])
    left, top = (wide - crop["width"]) // 2, (high - crop["height"]) // 2
    return (wide, high), (left, top, left + crop["width"], top + crop["height"])


def _on_canvas(settings: Any, image: Image.Image) -> Image.Image:
    """The canvas of tiles that an image processor lays an RGB image on, by its own arithmetic; black elsewhere."""
    size, rules = settings.size, sys.modules[type(settings).__module__]
    tile = size["height"]
    height, width = rules.get_optimal_tiled_canvas(image.height, image.width, settings.max_image_tiles, tile)
    high, wide = rules.get_image_size_fit_to_canvas(image.height, image.width, height, width, tile)
    canvas = Image.new("RGB", (int(width), int(height)))
    canvas.paste(image.resize((int(wide), int(high)), Image.Resampling.BILINEAR))
    return canvas


def whole_picture(pictures: Sequence[KeptPicture]) -> KeptPicture:
    """What was kept of the one image that a prompt shows.

    Raises:
        ValueError: the processor cut it into tiles, each a picture to the model, which is not told where they lay.
    """
    if len(pictures) != 1:
        raise ValueError(
            f"the processor made {len(pictures)} pictures of this image, and the model is not told where in it they "
            "lay, so that what was kept cannot be drawn over it: let it cut no tiles (do_image_splitting=False, "
            "do_pan_and_scan=False)"
        )
    return pictures[0]


def enlarged(image: Image.Image, scale: int | None = None) -> np.ndarray:
    """float (h, w, 3) in 0..255: an image `scale` times as large, by default so that its longer side has about 480."""
    scale = max(1, 480 // max(image.size)) if scale is None else scale
    size = (image.width * scale, image.height * scale)
    return np.asarray(image.convert("RGB").resize(size, Image.Resampling.NEAREST), dtype=float)


def cells(grid: tuple[int, ...], pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int64 (h,), (w,): the row and the column of a grid (rows, columns) that each pixel of an image falls into."""
    height, width = pixels.shape[:2]
    return np.arange(height) * grid[0] // height, np.arange(width) * grid[1] // width


def overlay(
    image: Image.Image, kept: KeptPicture, view: int = -1, frame: int = 0, scale: int | None = None
) -> Image.Image:
    """Draw which patches of `image` were kept.

    Args:
        image: the picture as the model saw it (`seen_image`).
        kept: from `handle.report().samples[row].pictures[number]`.
        view: which view of an AnyRes picture; the last one is the detailed one.
        frame: of a video.
        scale: enlarge by this factor; default so that the longer side has about 480 pixels.

    Returns:
        An RGB image: patches that every layer saw as they are, others dimmer the fewer layers saw them; with lines
        between patches that the vision tower did not merge, if it merged any.

    Raises:
        ValueError: the picture was cut into tiles, and nobody knows where they lay.
    """
    kept.picture.check_drawn()
    grid = kept.brightness(view)[frame]
    pixels = enlarged(image, scale)
    row, column = cells(grid.shape, pixels)
    light = (_LEAST + (1 - _LEAST) * grid)[row][:, column, None]
    pixels = pixels * light + _DIM * (1 - light)
    if kept.merged is not None:
        picture = kept.picture
        inside = picture.view == view % len(picture.grids)
        token = np.full(picture.grids[view], -1)
        token[picture.t[inside], picture.y[inside], picture.x[inside]] = kept.merged[inside]
        token = token[frame][row][:, column]
        border = np.zeros(token.shape, dtype=bool)
        border[1:] |= token[1:] != token[:-1]
        border[:, 1:] |= token[:, 1:] != token[:, :-1]
        pixels[border] = (pixels[border] + _LINE) / 2
    return Image.fromarray(pixels.round().astype(np.uint8))
