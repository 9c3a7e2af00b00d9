"""Pictures of a sweep's questions, kept beside its results: a page is then made from the results folder alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from vtokens.core.overlay import seen_image
from vtokens.core.writing import write_picture

MOST = 64
"""Documents of each task and draw whose picture is kept."""
SIDE = 480
"""Pixels of the longer side."""


def origin(fact: Mapping[str, Any], seed: int) -> int:
    """The first seed that asks the same documents as `seed`.

    Args:
        fact: what the manifest says of the task; its `hash` tells by seed what is asked.
    """
    hashes = fact["hash"]
    return next(int(first) for first, asked in hashes.items() if asked == hashes[str(seed)])


def path(folder: Path, task: str, seed: int, doc: int) -> Path:
    """Where the picture of a document is kept; `seed` is the `origin`."""
    return folder / "pictures" / f"{task}.s{seed}" / f"{doc}.png"


def save(
    folder: Path, tasks: Mapping[int, Mapping[str, Any]], facts: Mapping[str, Mapping[str, Any]], processor: Any
) -> None:
    """Keep the first picture of each task's first documents, as the model is given it, and of a video the first frame.

    Documents without pictures are passed over, and files already there stay.

    Args:
        folder: of the results.
        tasks: lmms-eval's, by seed and name.
        facts: the manifest's, by name.
        processor: of the model; it may crop.

    Raises:
        OSError: the folder cannot be written, or a picture cannot be read.
    """
    for seed, loaded in tasks.items():
        for name, task in loaded.items():
            for doc in range(min(facts[name]["samples"], MOST) if origin(facts[name], seed) == seed else 0):
                place = path(folder, name, seed, doc)
                if place.exists():
                    continue
                image = first_seen(task.doc_to_messages(task.eval_docs[doc]), processor)
                if image is not None:
                    _write(image, place)


def first_seen(messages: Any, processor: Any) -> Image.Image | None:
    """The first picture in a document's chat messages (of a video the first frame) as the model is given it, if any.

    Its longer side has at most SIDE pixels. Raises OSError for a picture that cannot be read, naming it.
    """
    image = next(_pictures(messages), None)
    if image is None:
        return None
    image = seen_image(processor, image)
    image.thumbnail((SIDE, SIDE))
    return image


def _write(image: Image.Image, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    write_picture(place, image)


def _pictures(messages: Any) -> Iterator[Image.Image]:
    from vtokens.eval.lmms.media import clip, picture

    for turn in messages or ():
        for part in turn["content"] if not isinstance(turn["content"], str) else ():
            if part.get("type") == "image":
                yield picture(part["url"])
            elif part.get("type") == "video":
                yield clip(part["url"], 1).images()[0]
