"""What an answer says of the request's visual tokens: counts, and which of them were kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

from vtokens.core.kept import KeptPicture
from vtokens.core.overlay import cut
from vtokens.serve.answers import ShownPicture, Verdict, VtokensAnswer
from vtokens.serve.jobs import Did

Seen = list[list[float]] | str
"""Of each picture the part that the model is given (`seen_share`); or why that is not known."""


def told(strategy: str, did: Did, seen: Seen | None, verdict: Verdict | None) -> VtokensAnswer:
    """What an answer says.

    Args:
        strategy: what ran, as text.
        did: of the batcher.
        seen: of the request's pictures, where it asks which tokens were kept.
        verdict: of the filter.
    """
    pictures: list[ShownPicture] | None = None
    untold = None
    if seen is not None:
        pictures = []
        try:
            pictures = shown_pictures(did.pictures, seen)
        except ValueError as error:
            untold = " ".join(str(error).split())
    return VtokensAnswer(
        strategy=strategy,
        image_tokens=did.image_tokens,
        kept=did.kept,
        flops_saved=round(did.flops_saved, 4),
        choices=list(did.choices) or None,
        filter=verdict,
        pictures=pictures,
        untold=untold,
    )


def shown_pictures(kept: Sequence[KeptPicture], seen: Seen) -> list[ShownPicture]:
    """Which tokens of each picture were kept; a video is shown frame by frame.

    Raises:
        ValueError: pictures that were cut into tiles, of which nobody knows where they lay.
    """
    if isinstance(seen, str):
        raise ValueError(seen)
    still = [one for one in kept if one.picture.modality != "video"]
    if len(still) != len(seen):
        raise ValueError(
            f"the processor made {len(still)} pictures of {len(seen)}, and does not say where in them they lay"
        )
    found, waiting = [], iter(seen)
    for one in kept:
        one.picture.check_drawn()
        video = one.picture.modality == "video"
        part = [0.0, 0.0, 1.0, 1.0] if video else next(waiting)
        for number, frame in enumerate(one.brightness()):
            rows = [[round(float(value), 2) for value in row] for row in frame]
            grid = [len(rows), len(rows[0])]
            found.append(ShownPicture(grid=grid, seen=part, light=rows, frame=number if video else None))
    return found


def seen_shares(processor: Any, images: Sequence[Image.Image]) -> Seen:
    """Of each image the part that the model is given."""
    try:
        return [seen_share(processor, image) for image in images]
    except ValueError as error:
        return str(error)


def seen_share(processor: Any, image: Image.Image) -> list[float]:
    """Left, top, width and height of the part of an image that the model is given, as shares (`overlay.seen_image`).

    Raises:
        ValueError: the processor lays pictures on a canvas of tiles.
    """
    settings = getattr(processor, "image_processor", processor)
    if getattr(settings, "max_image_tiles", None) is not None:
        raise ValueError("the processor lays pictures on a canvas of tiles, which is not theirs")
    if not getattr(settings, "do_center_crop", False):
        return [0.0, 0.0, 1.0, 1.0]
    (wide, high), (left, top, right, bottom) = cut(settings, image.size)
    left, top, right, bottom = max(left, 0), max(top, 0), min(right, wide), min(bottom, high)
    return [round(value, 4) for value in (left / wide, top / high, (right - left) / wide, (bottom - top) / high)]
