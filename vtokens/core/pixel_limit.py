"""How many pixels a picture may have, which its header tells before its pixels take any memory."""

from __future__ import annotations

import os
import re
import threading
import warnings
from pathlib import Path
from typing import IO

from PIL import Image

from vtokens.core.errors import shorten

MOST_PIXELS = "VTOKENS_MAX_PIXELS"
"""The environment variable that says how many pixels a picture may have, in place of twice PIL's MAX_IMAGE_PIXELS."""
_lock = threading.Lock()
_replaced: dict[str, int | None] = {}
"""PIL's limit as it was before ("before") and as the environment variable has made it ("now"), while it does."""


class TooManyPixels(ValueError):
    """A picture has more pixels than are allowed."""


def opened(source: str | Path | IO[bytes], formats: tuple[str, ...] | None = None) -> Image.Image:
    """A picture whose header alone is read, by `Image.open`, in our words where it has too many pixels.

    Raises:
        TooManyPixels: with how many are allowed.
        ValueError: VTOKENS_MAX_PIXELS is no whole number above 0.
        OSError: as `Image.open`.
    """
    most = _most()
    try:
        with warnings.catch_warnings():
            # It warns of half as many, which are read all the same.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(source, formats=formats)
    except Image.DecompressionBombError as error:
        found = re.search(r"\((\d+) pixels\)", str(error))
        raise _too_many(int(found[1]) if found else None, most) from error
    if most is not None and image.width * image.height > most:
        image.close()
        raise _too_many(image.width * image.height, most)
    return image


def _most() -> int | None:
    """How many pixels a picture may have now; None if any number."""
    given = os.environ.get(MOST_PIXELS)
    if given is not None and not (given.isascii() and given.isdigit() and int(given)):
        raise ValueError(f"{MOST_PIXELS}={shorten(given)} is not allowed: a whole number of pixels above 0 is")
    with _lock:
        before: int | None = Image.MAX_IMAGE_PIXELS
        if _replaced and before == _replaced["now"]:
            before = _replaced["before"]
        _replaced.clear()
        if given is None:
            Image.MAX_IMAGE_PIXELS = before
            return None if before is None else 2 * before
        now = (int(given) + 1) // 2  # PIL refuses above twice its own number
        _replaced.update(before=before, now=now)
        Image.MAX_IMAGE_PIXELS = now
        return int(given)


def _too_many(has: int | None, most: int | None) -> TooManyPixels:
    return TooManyPixels(
        f"it has {'too many' if has is None else f'{has:,}'} pixels, and at most {most or 0:,} are allowed, as a small "
        f"file can take all memory so: make it smaller, or, if you trust it, set {MOST_PIXELS}={has or '...'} in the "
        "environment"
    )
