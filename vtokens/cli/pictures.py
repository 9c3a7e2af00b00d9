"""Pictures that commands look at to find something out about a model."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vtokens.cli.output import note

QUESTION = "What is to be seen here?"
_NAMED = 10  # pictures left out that are named


def add_pictures(command: argparse.ArgumentParser, out: str) -> None:
    """Add the model, the file to write and where the pictures come from."""
    command.add_argument("model", help="an embedded model, a folder or a hub id")
    command.add_argument("--out", required=True, help=out)
    command.add_argument("--images", help="a folder of pictures; without it scenes are drawn")


def images(folder: str | None, samples: int) -> Iterator[Any]:
    """Up to `samples` RGB pictures of a folder, in order of their names; drawn scenes if there is no folder.

    Those that cannot be read are passed over, and named on stderr at the end.

    Raises:
        ValueError: the folder has no pictures, or none that can be read, or `samples` is no positive number.
    """
    from vtokens.core.images import open_image

    if samples < 1:
        raise ValueError(f"{samples} samples are not enough: at least 1 is needed")
    if folder is None:
        from vtokens import scenes

        yield from (example.image for example in scenes.examples("calibration", n=samples))
        return
    from PIL import Image

    known = Image.registered_extensions()
    paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in known)
    if not paths:
        raise ValueError(f"no pictures in {folder!r}: a folder with image files is needed")
    found, aside = 0, dict[Path, str]()
    for path in paths:
        if found == samples:
            break
        try:
            image = open_image(path)
        except OSError as error:
            aside[path] = str(error)
            continue
        found += 1
        yield image
    if not found:
        path, reason = next(iter(aside.items()))
        raise ValueError(f"none of the {len(aside)} pictures in {folder!r} can be read; {path}: {reason}")
    if aside:
        names = ", ".join(str(path.relative_to(folder)) for path in list(aside)[:_NAMED])
        more = f" and {len(aside) - _NAMED} more" if len(aside) > _NAMED else ""
        note(f"{len(aside)} of {found + len(aside)} pictures could not be read and were left out: {names}{more}")
