"""Bytes of strangers as pictures and frames: what they are is told by themselves, and how large before they are."""

from __future__ import annotations

import binascii
import re
import tempfile
import time
import warnings
from io import BytesIO
from pathlib import Path
from typing import Literal

from PIL import Image

from vtokens.core.errors import shorten
from vtokens.core.extras import install
from vtokens.core.images import open_image
from vtokens.core.pixel_limit import TooManyPixels, opened
from vtokens.core.writing import fresh
from vtokens.serve.errors import Refused
from vtokens.serve.limits import Limits
from vtokens.video import Bounds, Clip, read

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
_PICTURES = "PNG, JPEG, WebP, GIF or BMP"
_VIDEOS = "MP4, MOV, WebM, Matroska, AVI or GIF"
_SCANS = 100
"""Of a JPEG: each costs a pass over the whole picture, and writers make a dozen."""
_RATIO = 200  # of the sides of a picture: processors of models take no longer ones
_DATA = re.compile(r"data:([a-z0-9.+-]{1,40}/[a-z0-9.+-]{1,80})?(;[a-z0-9=._-]{1,80})*;base64,", re.IGNORECASE)
Kind = Literal["image", "video"]


def from_data_url(url: str, kind: Kind, param: str, limits: Limits) -> bytes:
    """The bytes of a data URL, whose base64 is spelt strictly.

    Raises:
        Refused: 400, other text, or more bytes than are allowed.
    """
    found = _DATA.match(url[:400])
    if not found or (found[1] or kind).partition("/")[0].lower() not in (kind, "application"):
        raise _bad(kind, param, f"{shorten(url, 40)} is no data:{kind}/...;base64,... URL")
    # Four characters are three bytes: what is too long is not decoded.
    if (len(url) - found.end()) * 3 // 4 > limits.media + 2:
        raise _bad(kind, param, f"it has more than {limits.media:,} bytes, the most that are allowed")
    try:
        data = binascii.a2b_base64(url[found.end() :].encode("ascii"), strict_mode=True)
    except ValueError as error:  # binascii's own, and that of other characters than ASCII
        reason = "other characters" if isinstance(error, UnicodeEncodeError) else str(error)
        raise _bad(kind, param, f"its base64 is damaged: {reason}") from None
    if not data:
        raise _bad(kind, param, "it holds no bytes")
    return data


def picture(data: bytes, param: str, limits: Limits, left: int) -> Image.Image:
    """A picture, RGB and upright, of the first frame where it moves.

    Args:
        data: of a file.
        param: where in the request it came from.
        limits: of a picture.
        left: pixels that the request may still have.

    Raises:
        Refused: 400, no picture of a kind that is read, damaged, or larger than allowed, which its header tells.
    """
    if data.startswith(b"\xff\xd8") and data.count(b"\xff\xda") > _SCANS:
        raise _bad("image", param, f"it is a JPEG of more than {_SCANS} scans, the most that are allowed")
    # libwebp takes memory for the whole canvas when it only opens a file.
    size = _webp_size(data)
    if size is not None:
        _check_size(size, param, limits.pixels, left)
    try:
        with opened(BytesIO(data), _FORMATS) as image:
            size = image.size
    except Image.UnidentifiedImageError:
        raise _bad("image", param, f"{shorten(data, 24)} is no picture that is read here: {_PICTURES} are") from None
    except TooManyPixels:
        message = f"{param}: it has more pixels than the {min(limits.pixels, left):,} that are allowed"
        raise Refused(400, message, code="too_many_pixels", param=param) from None
    except Exception as error:  # PIL raises whatever broken bytes lead it to
        raise _bad("image", param, _reason(error)) from None
    _check_size(size, param, limits.pixels, left)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return open_image(BytesIO(data), "here", _FORMATS)
    except Exception as error:
        raise _bad("image", param, _reason(error)) from None


def clip(data: bytes, param: str, limits: Limits, left: int) -> Clip:
    """Frames of a video, evenly, at most as many as are allowed.

    A file that lists others, as HLS and DASH do, is no video here: FFmpeg would read what it names.

    Args, Raises: as `picture`; where no package decodes videos, 400 as well.
    """
    if not _moves(data):
        raise _bad("video", param, f"{shorten(data, 24)} is no video that is read here: {_VIDEOS} are")
    with tempfile.TemporaryDirectory(prefix="vtokens-") as folder:
        path = Path(folder, "video")
        with fresh(path) as file:
            file.write(data)
        end = time.monotonic() + limits.media_seconds
        bounds = Bounds(min(limits.pixels, left), left, limits.packets, end)
        try:
            return read(path, limits.frames, backend="pyav", bounds=bounds)
        except ImportError:
            message = f"videos are not read here: the server's owner can install what does, {install('video')}"
            raise _bad("video", param, message) from None
        except Exception as error:
            raise _bad("video", param, _reason(error).replace(shorten(str(path)), "it")) from None


def _check_size(size: tuple[int, int], param: str, most: int, left: int) -> None:
    width, height = size
    if width * height > min(most, left):
        whole = "at most" if most <= left else "with what came before it in the request, at most"
        message = f"it has {width:,} x {height:,} pixels: {whole} {min(most, left):,} are allowed"
        raise Refused(400, f"{param}: {message}", code="too_many_pixels", param=param)
    if max(size) > _RATIO * min(size):
        raise _bad(
            "image", param, f"it has {width:,} x {height:,} pixels: one side is at most {_RATIO} times the other"
        )


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """Width and height in the header of a WebP; None for other files."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return None
    kind, at = data[12:16], data[20:30]
    if kind == b"VP8X":
        return int.from_bytes(at[4:7], "little") + 1, int.from_bytes(at[7:10], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(at[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return int.from_bytes(at[6:8], "little") & 0x3FFF, int.from_bytes(at[8:10], "little") & 0x3FFF


def _moves(data: bytes) -> bool:
    """Whether a file begins as those of videos do."""
    if data[4:8] in (b"ftyp", b"moov", b"wide", b"free", b"mdat", b"skip"):
        return True
    return data.startswith((b"\x1aE\xdf\xa3", b"GIF8")) or (data[:4] == b"RIFF" and data[8:12] == b"AVI ")


def _reason(error: Exception) -> str:
    return shorten(f"it cannot be read: {error or type(error).__name__}", 400).strip("'\"")


def _bad(kind: Kind, param: str, why: str) -> Refused:
    code = "bad_picture" if kind == "image" else "bad_video"
    return Refused(400, f"{param}: {why}", code=code, param=param)
