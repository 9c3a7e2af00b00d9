"""Whether a picture may be a drawn scene: the embedded models know nothing else, and each says what it was taught."""

from __future__ import annotations

import numpy as np
from PIL import Image

from .world import IMAGE

_CHROMA = 48  # between the channels of a pixel of the ground; its tint and the noise make up to 43
_GROUND = 0.75  # share of the pixels; the objects of the fullest scenes leave 0.84
_LIGHT = (50, 170)  # of the ground, whose median lies between 66 and 157


_PLAIN = "coloured shapes and digits on grey"
_WORLDS = "coloured shapes, digits and printed words on grey or on a photograph"


def taught(model: str) -> str:
    """What the pictures of an embedded model show."""
    return _WORLDS if model == "scenes-smol" else _PLAIN


def looks_drawn(image: Image.Image, model: str = "scenes-llava") -> bool:
    """False where an RGB picture is plainly no scene of `vtokens.scenes` that `model` was taught.

    Scenes have one size; those on plain ground are mostly grey, and on a photograph they have any colour.
    """
    if image.size != (IMAGE, IMAGE):
        return False
    if taught(model) == _WORLDS:
        return True
    pixels = np.asarray(image.convert("RGB"), dtype=np.int16)
    grey = (pixels.max(-1) - pixels.min(-1)) < _CHROMA
    if grey.mean() < _GROUND:
        return False
    return bool(_LIGHT[0] < np.median(pixels[grey]) < _LIGHT[1])
