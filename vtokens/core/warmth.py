"""Pictures in grey that are warm where something is high, with a caption below."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_COLD, _WARM, _HOT = (np.array(colour, dtype=float) for colour in ((28, 28, 40), (226, 74, 38), (255, 226, 120)))
_GAP = 8
_FONT = 14  # pixels


def warmed(pixels: np.ndarray, warmth: np.ndarray) -> np.ndarray:
    """float (h, w, 3) in 0..255: a picture in grey, coloured by warmth (h, w) in 0..1."""
    warmth = warmth[..., None]
    grey = pixels.mean(-1, keepdims=True) * 0.6 + pixels * 0.4
    colour = np.where(warmth < 0.5, _COLD + (_WARM - _COLD) * 2 * warmth, _WARM + (_HOT - _WARM) * (2 * warmth - 1))
    strength = 0.15 + 0.6 * warmth
    found: np.ndarray = grey * (1 - strength) + colour * strength
    return found


def side_by_side(parts: Sequence[np.ndarray]) -> Image.Image:
    """An RGB image of float parts (h, w, 3) in 0..255, with white between and below them."""
    height = max(len(part) for part in parts)
    widths = [part.shape[1] for part in parts]
    sheet = np.full((height, sum(widths) + _GAP * (len(parts) - 1), 3), 255.0)
    left = 0
    for part, width in zip(parts, widths, strict=True):
        sheet[: len(part), left : left + width] = part
        left += width + _GAP
    return Image.fromarray(sheet.round().astype(np.uint8))


def captioned(image: Image.Image, caption: str) -> Image.Image:
    """A picture with text below it, on lines as wide as the picture."""
    font: Any = ImageFont.load_default(_FONT)
    lines, line = [], ""
    for word in caption.split():
        longer = f"{line} {word}".strip()
        if line and font.getlength(longer) > image.width - 2 * _GAP:
            lines.append(line)
            longer = word
        line = longer
    lines.append(line)
    below = (_FONT + 4) * len(lines) + 2 * _GAP
    sheet = Image.new("RGB", (image.width, image.height + below), "white")
    sheet.paste(image)
    draw = ImageDraw.Draw(sheet)
    for number, text in enumerate(lines):
        draw.text((_GAP, image.height + _GAP + number * (_FONT + 4)), text, fill="black", font=font)
    return sheet
