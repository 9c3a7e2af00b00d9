"""Reading image files."""

from __future__ import annotations

import threading
from pathlib import Path

from PIL import Image, ImageFile

from vtokens._reading import regular

_lock = threading.Lock()


def open_image(path: str | Path) -> Image.Image:
    """The image at `path`, fully decoded, RGB.

    Raises:
        OSError: missing, truncated, not an image, or no regular file; names the file.
    """
    regular(path)
    try:
        with Image.open(path) as image, _lock:
            # Other libraries (lmms-eval, for one) let half files pass as grey, for the whole process.
            lenient, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
            try:
                return image.convert("RGB")
            finally:
                ImageFile.LOAD_TRUNCATED_IMAGES = lenient
    except FileNotFoundError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise OSError(f"cannot read the image {str(path)!r}: {error}") from error
