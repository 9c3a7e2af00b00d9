"""Which part of a picture the grid of patches covers, in the picture's own pixels."""

from __future__ import annotations

from typing import Any

from PIL import Image

from vtokens.core.overlay import cut


def rounded(frame: tuple[float, float, float, float]) -> tuple[int, int, int, int]:
    """A frame in whole pixels."""
    left, top, right, bottom = map(round, frame)
    return left, top, right, bottom


def framed(processor: Any, image: Image.Image) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) in pixels of `image`: all of it, or what a processor that crops leaves.

    Cuttings are made from the picture as it was given, so that they are sharper than what the model saw; pictures of
    cropping processors (LLaVA 1.5 scales the shorter side and cuts the centre square) need their place in it.

    Raises:
        ValueError: the processor lays pictures on a canvas of tiles.
    """
    settings = getattr(processor, "image_processor", processor)
    width, height = image.size
    if getattr(settings, "max_image_tiles", None) is not None:
        raise ValueError(
            "the processor lays pictures on a canvas of tiles, so that patches lie outside of them too: recipes that "
            "cut pictures are for other families"
        )
    if not getattr(settings, "do_center_crop", False):
        return 0.0, 0.0, float(width), float(height)
    (wide, high), (left, top, right, bottom) = cut(settings, image.size)
    return (
        max(left, 0) * width / wide, max(top, 0) * height / high,
        min(right, wide) * width / wide, min(bottom, high) * height / high,
    )  # fmt: skip
