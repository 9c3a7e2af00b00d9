"""Whether a picture may be a drawn scene: the embedded models know nothing else."""

from __future__ import annotations

import numpy as np
from PIL import Image

from .world import IMAGE

_CHROMA = 48  # between the channels of a pixel of the ground; its tint and the noise make up to 43
_GROUND = 0.75  # share of the pixels; the objects of the fullest scenes leave 0.84
_LIGHT = (50, 170)  # of the ground, whose median lies between 66 and 157


def looks_drawn(image: Image.Image) -> bool:
    """False where an RGB picture is plainly no scene of `vtokens.scenes`: another size, or not mostly grey ground."""
    if image.size != (IMAGE, IMAGE):
        return False
    pixels = np.asarray(image.convert("RGB"), dtype=np.int16)
    grey = (pixels.max(-1) - pixels.min(-1)) < _CHROMA
    if grey.mean() < _GROUND:
        return False
    return bool(_LIGHT[0] < np.median(pixels[grey]) < _LIGHT[1])
