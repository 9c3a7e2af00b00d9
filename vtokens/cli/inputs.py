"""What `vtokens run` is given to look at: pictures and videos, as files, behind URLs, or on the standard input."""

from __future__ import annotations

import argparse
import errno
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vtokens.cli.options import above_zero, seconds, whole
from vtokens.cli.output import note
from vtokens.core.errors import nearest, shorten
from vtokens.core.fetch import MOST, fetch, is_url
from vtokens.core.reading import regular
from vtokens.core.writing import append, fresh

if TYPE_CHECKING:
    from PIL import Image

    from vtokens.video import Clip

FRAMES = 8
"""Taken from a video unless the command line says how many."""
STANDARD_INPUT = "-"
_LISTED = 10_000  # names of a folder that are compared with one that is not there
_PICTURES = (".dng", ".heic", ".heif", ".hif", ".jxl", ".svg")  # which Pillow does not know by itself
METHODS = ("aks", "bolt", "date", "tstar")
"""Recipes that search videos for frames; all others ask about a picture again."""


@dataclass(frozen=True)
class Visual:
    """A picture or a video.

    Attributes:
        name: as it was given.
        image: RGB; None for a video.
        clip: its frames; None for a picture.
    """

    name: str
    image: Image.Image | None = None
    clip: Clip | None = None

    def first(self) -> Any:
        """The picture, or the first frame."""
        return self.image if self.clip is None else self.clip.images()[0]

    def told(self) -> str:
        """What is said of a video's frames."""
        assert self.clip is not None
        count, told = len(self.clip.indices), self.clip.metadata
        return (
            f"{self.name}: {count} {'frame' if count == 1 else 'frames'} of {told['duration']:.2f} s, from "
            f"{self.clip.seconds[0]:.2f} to {self.clip.seconds[-1]:.2f} s, by {told['video_backend']}"
        )

    def facts(self) -> dict[str, Any]:
        """What --json says of it."""
        if self.clip is None:
            assert self.image is not None
            return {"name": self.name, "kind": "image", "width": self.image.width, "height": self.image.height}
        told = {name: self.clip.metadata[name] for name in ("width", "height", "duration", "video_backend")}
        return {"name": self.name, "kind": "video", **told, "frames": self.clip.indices, "seconds": self.clip.seconds}


def add_frames(command: argparse.ArgumentParser) -> None:
    """The options that say which frames of a video are taken, and where it may lie."""
    taken = command.add_mutually_exclusive_group()
    taken.add_argument(
        "--frames", type=whole(), metavar="N", help=f"take so many frames of each video, evenly ({FRAMES})"
    )
    taken.add_argument("--fps", type=above_zero, metavar="R", help="take so many frames of each of its seconds")
    command.add_argument("--start", type=seconds, metavar="S", help="begin at this second of the video")
    command.add_argument("--end", type=seconds, metavar="S", help="end at this second of the video")
    command.add_argument("--private-urls", action="store_true", help="allow URLs of the own machine and network")


def check_inputs(options: argparse.Namespace) -> None:
    """Raise ValueError for options that cannot be kept together, before anything is read."""
    readers = [*options.image, options.question].count(STANDARD_INPUT)
    if readers > 1 or (readers and options.chat):
        raise ValueError("the standard input can be read once: as one input, as the question, or by --chat")
    if (options.recipe or "").partition("(")[0] == "quota":
        raise ValueError("--recipe quota: as an option of its own, such as --quota 0.25, it goes with frame search too")
    if options.recipe and options.recipe not in METHODS:
        _check_asking_again(options)
    elif options.recipe:
        far = next((name for name in options.image if name == STANDARD_INPUT or is_url(name)), None)
        if far is not None:
            raise ValueError(f"--recipe reads a video again and again, and {far} can be read once: save it as a file")
        if options.fps is not None:
            raise ValueError(
                "--fps and --recipe both say which frames are taken: with a recipe, say how many (--frames)"
            )
    for name, given in (("--scorer", options.scorer), ("--seek", options.seek)):
        if given and options.recipe not in METHODS and options.quota is None:
            raise ValueError(f"{name} is for --recipe, where it searches for frames, and for --quota")
    if options.overlay and len(options.image) > 1:
        raise ValueError(f"--overlay shows one picture, and {len(options.image)} are given")


def _check_asking_again(options: argparse.Namespace) -> None:
    """Raise ValueError for a recipe that asks about a picture again, where its name or what is given is wrong."""
    from vtokens.recipes import parse_recipe

    name = parse_recipe(options.recipe, METHODS).name
    if len(options.image) != 1:
        raise ValueError(f"--recipe {name} asks about one picture again, and {len(options.image)} inputs are given")
    for given, why in (
        (options.chat, f"--chat: what is asked later would follow a prompt that {name} wrote. Ask each question anew"),
        (options.overlay, f"--overlay: it shows what was kept of one picture, and {name} shows the model several"),
        (options.timestamps, f"--timestamps: it shows frames of a video, and {name} asks about one picture"),
    ):
        if given:
            raise ValueError(f"--recipe {name} and {why}")


def opened(options: argparse.Namespace, names: Sequence[str]) -> list[Visual]:
    """The named inputs of a command with `add_frames`, read.

    Raises:
        OSError, ValueError: one cannot be read; names it.
        MissingExtra: a video, and no package that decodes it.
    """
    found = []
    for name in names:
        try:
            with _as_file(name, options.private_urls) as path:
                found.append(_read(path, name, options))
        except FileNotFoundError as error:
            text = getattr(options, "question", None) or getattr(options, "response", None) or ""
            if not is_url(text) and not os.path.isfile(text):
                raise
            raise FileNotFoundError(f"{error}. Pictures and videos come first, the text behind them") from error
    asked = [f"--{name}" for name in ("frames", "fps", "start", "end") if getattr(options, name) is not None]
    if asked and all(one.clip is None for one in found):
        raise ValueError(f"{' and '.join(asked)}: there is no video to take frames from, only pictures are given")
    recipe = getattr(options, "recipe", None)
    moving = ["--recipe"] * (recipe in METHODS) + ["--timestamps"] * bool(getattr(options, "timestamps", False))
    moving += ["--quota"] * (getattr(options, "quota", None) is not None)
    if moving and all(one.clip is None for one in found):
        raise ValueError(f"{' and '.join(moving)}: there is no video, only pictures are given")
    return found


def typed() -> str:
    """The text on the standard input, without the mark that some programs begin UTF-8 with.

    Raises:
        ValueError: it is not UTF-8.
    """
    try:
        return sys.stdin.read().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"the standard input is no text in {error.encoding}: {error.reason} at byte {error.start}. Save it as UTF-8"
        ) from error


@contextmanager
def _as_file(name: str, private: bool) -> Iterator[Path]:
    if name != STANDARD_INPUT and not is_url(name):
        try:
            regular(name)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENAMETOOLONG, errno.EINVAL):  # a sentence may be no name at all
                raise
            raise _no_such_file(name) from error
        yield Path(name)
        return
    with tempfile.TemporaryDirectory(prefix="vtokens-") as folder:
        path = Path(folder, "input")
        if name == STANDARD_INPUT:
            data = sys.stdin.buffer.read(MOST + 1)
            if len(data) > MOST:
                raise ValueError(f"the standard input holds more than {MOST:,} bytes, the most that are read")
            with fresh(path) as file:
                append(file, data, path, "nothing of it is read")
        else:
            fetch(name, path, private)
        yield path


def _no_such_file(name: str) -> FileNotFoundError:
    """The error that names what the folder holds instead."""
    folder = Path(name).parent
    names = [entry.name for entry in islice(os.scandir(folder), _LISTED)] if os.path.isdir(folder) else []
    return FileNotFoundError(
        f"No such file or directory: {shorten(name)}.{nearest(Path(name).name, names)}".rstrip(".")
    )


def _read(path: Path, name: str, options: argparse.Namespace) -> Visual:
    from vtokens.core.images import open_image
    from vtokens.video import read

    shown = "the standard input" if name == STANDARD_INPUT else shorten(name)
    if not path.stat().st_size:
        raise ValueError(f"{shown} is empty: a picture or a video is needed")
    moving = options.frames is not None or options.fps is not None
    kind = _kind(path, Path(name).suffix)
    if kind == "picture" or (kind == "animation" and not moving):
        if kind == "animation":
            note(f"{shown} moves: --frames {FRAMES} asks about it as about a video")
        return Visual(name, open_image(path, shown))
    # A recipe takes its frames by itself; until then one stands for the video.
    frames = 1 if getattr(options, "recipe", None) in METHODS else options.frames if moving else FRAMES
    try:
        clip = read(path, frames, options.fps, options.start, options.end)
        if options.frames is not None and frames is not None and len(clip.indices) < frames:
            note(f"{shown}: --frames {frames} is more than there are, so all are taken: {len(clip.indices)}")
        return Visual(name, clip=clip)
    except (OSError, ValueError) as error:
        if Path(name).suffix.lower() in _PICTURES:
            raise OSError(f"cannot read the image {shown}: nothing here knows it. Save it as PNG or JPEG") from error
        raise type(error)(str(error).replace(shorten(str(path)), shown)) from error


def _kind(path: Path, suffix: str) -> Literal["picture", "animation", "video"]:
    """What a file is to be opened as; an animation is a video where frames of it are asked for, else a picture."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they come once more when it is opened
            with Image.open(path) as image:
                if image.format == "MPEG":
                    return "video"
                return "animation" if image.format == "GIF" and getattr(image, "is_animated", False) else "picture"
    except Image.UnidentifiedImageError:
        return "picture" if Image.registered_extensions().get(suffix.lower(), "MPEG") != "MPEG" else "video"
    except Exception:  # opening it says what is wrong
        return "picture"
