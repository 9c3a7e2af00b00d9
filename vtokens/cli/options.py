"""Options that several commands share, and values that are checked while they are read."""

from __future__ import annotations

import argparse
import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from vtokens.core.errors import shorten, unknown
from vtokens.core.reading import same_file
from vtokens.loading.hardware import DTYPES

SEEDS = 2**32 - 1
"""The largest seed: numpy takes no larger one."""
MANY = 1_000_000
"""The most of what is counted: more was hardly meant, and would never end."""


def add_placement(command: argparse.ArgumentParser, device: str | None = "cpu", dtype: str | None = "auto") -> None:
    """Add --device and --dtype. Devices are checked by `vtokens.loading.hardware` where the model will be."""
    default = f"({device})" if device else "(the GPU of the process, if there is one)"
    command.add_argument("--device", default=device, help=f"cpu, cuda, cuda:0, ... {default}")
    default = f"({dtype})" if dtype else "(as saved; for random weights and noise float32, bfloat16 on CUDA)"
    command.add_argument(
        "--dtype", default=dtype, type=dtype_name, metavar="DTYPE", help=f"auto, float32, bfloat16, float16 {default}"
    )


def dtype_name(text: str) -> str:
    """The name of a dtype that models can be loaded in."""
    if text not in DTYPES:
        raise argparse.ArgumentTypeError(str(unknown("dtype", text, DTYPES)))
    return text


def keep_value(text: str) -> float | int:
    """A count if written as an integer, otherwise a share."""
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{shorten(text)} is not a number: a share such as 0.25, or a count such as 64"
        ) from None


def whole(least: int = 1, most: int = MANY) -> Callable[[str], int]:
    """The type of an option that is a whole number in these bounds."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(
                f"{shorten(text)} is not allowed: a whole number from {least:,} to {most:,}"
            )
        return value

    return read


def above_zero(text: str) -> float:
    """The type of an option that is a finite number above 0."""
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{shorten(text)} is not allowed: a number above 0")
    return value


def seconds(text: str) -> float:
    """The type of an option that is a finite number of seconds, from 0."""
    value = _number(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{shorten(text)} is not allowed: seconds from 0")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def listed(text: str) -> list[str]:
    """The parts of a comma-separated list, none of them empty."""
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise argparse.ArgumentTypeError(f"{shorten(text)} has an empty part: names separated by commas, as in a,b")
    return parts


def numbers(least: int = 1, most: int = MANY) -> Callable[[str], tuple[int, ...]]:
    """The type of an option that is a comma-separated list of whole numbers in these bounds."""
    one = whole(least, most)
    return lambda text: tuple(one(part) for part in listed(text))


def keeps(text: str) -> tuple[float | int, ...]:
    """The type of an option that is a comma-separated list of keeps."""
    return tuple(keep_value(part) for part in listed(text))


def path(text: str) -> Path:
    """The type of an option that names a file."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty: leave it out, or give it a value")
    return Path(text)


def check_values(options: argparse.Namespace) -> None:
    """Raise ValueError for a value that is empty, or holds a character that no text and no file's name can.

    Args:
        options: what `vtokens.cli.parsing.Parser` read.
    """
    for name, value in vars(options).items():
        several, spare = isinstance(value, list), options.positional.get(name)
        word = name.removesuffix("s") if several else name
        shown = f"--{name.replace('_', '-')}" if spare is None else f"the {word}"
        verb = "is" if spare is None or not word.endswith("s") else "are"
        for text in value if several else [value]:
            if isinstance(text, str) and not text.strip():
                remedy = "it cannot be left out" if spare is False else "leave it out, or give it a value"
                raise ValueError(f"{shown} {verb} empty: {remedy}")
            if isinstance(text, str) and "\0" in text:
                raise ValueError(f"{shown} holds the character NUL: {shorten(text)}")


def check_folder(path: str | Path, option: str) -> None:
    """Raise OSError if files cannot be made in this folder, which is made if it is not there."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        raise OSError(f"{option} {shorten(str(path))} cannot be written: {error.strerror or error}") from error


def check_file(path: str | Path, option: str, *inputs: str | Path) -> None:
    """Raise OSError if this file cannot be written, before the work whose result it is to hold.

    Args:
        inputs: what the command reads.

    Raises:
        ValueError: it is one of `inputs`, by links too.
    """
    if any(same_file(path, read) for read in inputs):
        raise ValueError(f"{option} {shorten(str(path))} is what is read, and would be lost: give another name")
    target = Path(os.path.realpath(path))
    try:
        if target.exists() and not target.is_file():
            raise OSError("it is no regular file")
        tempfile.TemporaryFile(dir=target.parent).close()
        if target.exists():
            os.close(os.open(target, os.O_WRONLY))
    except OSError as error:
        raise OSError(f"{option} {shorten(str(path))} cannot be written: {error.strerror or error}") from error


def check_picture(path: str | Path, option: str, *inputs: str | Path) -> None:
    """As `check_file`, for a picture; ValueError for a name that says no kind of picture."""
    from PIL import Image

    if Image.registered_extensions().get(Path(path).suffix.lower()) not in Image.SAVE:
        raise ValueError(f"{option} {shorten(str(path))} names no kind of picture: a name that ends in .png does")
    check_file(path, option, *inputs)
