"""Reading image files."""

from __future__ import annotations

from pathlib import Path

from PIL import Image


def open_image(path: str | Path) -> Image.Image:
    """The image at `path`, fully decoded, RGB.

    Raises:
        OSError: missing, truncated or not an image; names the file.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except FileNotFoundError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise OSError(f"cannot read the image {str(path)!r}: {error}") from error
