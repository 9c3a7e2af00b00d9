"""Pictures as users have them, made what a model is given: upright, RGB, eight bits a channel."""

from __future__ import annotations

import threading
import warnings
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, ImageFile, ImageOps

from vtokens.core.pixel_limit import opened
from vtokens.core.reading import regular

ALLOWED = "a PIL image, the path of a picture, or a uint8 array (height, width, 3) in RGB"
_ANIMATED = ("AVIF", "GIF", "PNG", "TIFF", "WEBP")  # a phone's MPO has a second image too, which is no second picture
_WHOLE = {"PNG": 65535, "PPM": 65535}
"""Which number is white where PIL's mode I does not tell: these formats are scaled to 16 bits."""
_lock = threading.Lock()


def open_image(
    source: str | Path | IO[bytes], name: str | None = None, formats: tuple[str, ...] | None = None
) -> Image.Image:
    """The image in a file, fully decoded and `upright`.

    An animation gives its first frame, and warns that it is one. A picture may have twice as many pixels as
    `PIL.Image.MAX_IMAGE_PIXELS` says, or as many as the environment variable VTOKENS_MAX_PIXELS says when it is opened;
    PIL's number follows it, for the whole process, since PIL looks at it again when a picture is cropped.

    Args:
        source: a path, or an open binary file.
        name: what errors call it; by default its path.
        formats: PIL's names of those that are read; by default all that it knows.

    Raises:
        OSError: missing, truncated, not an image, of more pixels than are allowed, or no regular file; names the file.
    """
    if isinstance(source, str | Path):
        regular(source)
    name = repr(str(source)) if name is None else name
    try:
        with opened(source, formats) as image, _lock:
            # Other libraries (lmms-eval, for one) let half files pass as grey, for the whole process.
            lenient, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
            try:
                found = upright(image)
                frames = image.format in _ANIMATED and getattr(image, "is_animated", False)
            finally:
                ImageFile.LOAD_TRUNCATED_IMAGES = lenient
    except FileNotFoundError:
        raise
    except (OSError, EOFError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise OSError(f"cannot read the image {name}: {error}") from error
    if frames:
        warnings.warn(f"the image {name} has several frames: only the first is looked at", stacklevel=2)
    return found


def upright(image: Image.Image) -> Image.Image:
    """A picture as transformers' `load_image` gives it, and grey of more than eight bits in its full range.

    It is turned as its EXIF orientation says, converted to RGB, and comes without metadata, so that nothing turns it
    again. Transparency is dropped: the colours that lie under it are what a model sees, as in transformers and in the
    models' own releases. 16-bit grey has 65535 as white. PIL's modes I and F do not say what is white: the file's
    format tells, or else it is the smallest of 1 (F only), 255 and 65535 that no value exceeds.

    Raises:
        ValueError: numbers that are no grey of any of these ranges.
    """
    image.load()
    white = _WHOLE.get(image.format or "") if image.mode == "I" else None
    image = _turned(image)
    image.info.pop("transparency", None)  # PIL would advise a mode with transparency
    if image.mode == "F" or image.mode.startswith("I"):
        image = _eight_bits(image, white)
    found = image.convert("LA").convert("RGB") if image.mode == "La" else image.convert("RGB")
    found.info = {}
    return found


def as_image(value: Any) -> Image.Image:
    """The picture that a user gave in any of the ways in `ALLOWED`, `upright`.

    Arrays and tensors are uint8: (height, width) in grey, or with 3 or 4 channels last or first; where both could be,
    an array has them last and a tensor first.

    Raises:
        TypeError, ValueError: something else; says what is allowed.
        OSError: a file that cannot be read.
    """
    if isinstance(value, Image.Image):
        return upright(value)
    if isinstance(value, str | Path):
        return open_image(value)
    first = hasattr(value, "detach")  # a tensor of torch, in the order of torchvision
    try:
        array = value.detach().cpu().numpy() if first else value.__array__()
    except (AttributeError, TypeError, RuntimeError) as error:
        raise TypeError(f"a picture of type {type(value).__name__} is not allowed: {ALLOWED}") from error
    given = f"a picture of shape {tuple(array.shape)} and type {array.dtype}"
    if array.dtype != np.uint8:
        scale = " (from 0..1, multiply by 255 and round)" if array.dtype.kind == "f" else ""
        raise ValueError(f"{given} is not allowed: uint8 is{scale}")
    if array.ndim == 2 and array.size:
        return Image.fromarray(np.ascontiguousarray(array)).convert("RGB")
    axes = [axis for axis in ((0, -1) if first else (-1, 0)) if array.ndim == 3 and array.shape[axis] in (3, 4)]
    if not axes or not array.size:
        frames = ". Frames of a video: vtokens.video.read(frames) makes a clip of them" if array.ndim == 4 else ""
        raise ValueError(f"{given} is not allowed: {ALLOWED}{frames}")
    return Image.fromarray(np.ascontiguousarray(np.moveaxis(array, axes[0], -1))).convert("RGB")


def _turned(image: Image.Image) -> Image.Image:
    """A copy, turned as its EXIF orientation says; as it is where the EXIF data cannot be read."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # PIL raises whatever a broken directory leads it to, and viewers show such pictures unturned
        return image.copy()


def _eight_bits(image: Image.Image, white: int | None) -> Image.Image:
    values = np.asarray(image).astype(np.float64)
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if image.mode.startswith("I;16"):
        white = 65535
    ranges = ([1] if image.mode == "F" else []) + [255, 65535]
    white = white or next((top for top in ranges if high <= top), None)  # NaN is in none of them
    if white is None or not 0 <= low <= high <= white:
        raise ValueError(f"its values of mode {image.mode} go from {low:g} to {high:g}: 0 to 65535 is allowed")
    return Image.fromarray(np.round(values * (255 / white)).astype(np.uint8))
