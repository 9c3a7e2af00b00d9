"""Pictures inside the page: what a strategy kept, as small WebP images in data URIs."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from vtokens.core.kept import KeptPicture
from vtokens.core.overlay import overlay
from vtokens.core.picture import Picture
from vtokens.core.pixel_limit import opened
from vtokens.core.reading import regular

from .answers import GivenAnswer, Question

SIDE = 192
"""The longer side, in pixels."""


def shown(path: Path) -> Image.Image:
    """The picture, its longer side about SIDE; small ones are enlarged by a whole factor so that patches stay sharp.

    Raises:
        OSError: not a picture, or a broken one; names the file.
    """
    regular(path)
    try:
        with opened(path) as file:
            image = file.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise OSError(f"cannot read the picture {str(path)!r}: {error}") from error
    longest = max(image.size)
    if longest > SIDE:
        size = (max(1, image.width * SIDE // longest), max(1, image.height * SIDE // longest))
        return image.resize(size, Image.Resampling.LANCZOS)
    factor = SIDE // longest
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def drawn(question: Question, given: GivenAnswer) -> Image.Image | None:
    """The question's picture with the patches dimmed that the middle decoder layer did not see.

    None where there is no picture, or the answer does not say what was kept.
    """
    if question.picture is None or given.kept is None or given.grid is None:
        return None
    h, w = given.grid
    kept = given.kept[(given.kept >= 0) & (given.kept < h * w)].astype(np.int64)
    picture = Picture.of([(1, h, w)], [False])
    image = shown(question.picture)
    # At this size a dropped patch needs some light left for the eye to find its way.
    return Image.blend(image, overlay(image, KeptPicture(picture, (kept,)), scale=1), 0.8)


def caption(question: Question, given: GivenAnswer, who: str) -> str:
    """What `drawn` shows, in words."""
    if given.grid is None or given.kept is None:
        return f"The picture of the question, as {who} saw it"
    return f"The picture as {who} saw it: {len(given.kept)} of {given.grid[0] * given.grid[1]} patches kept"


def data_uri(image: Image.Image) -> str:
    """The image inside a URI."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=80, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
