"""Whether the copies of a row (beams, returned sequences) see their own pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vtokens.adapters import Adapter
from vtokens.core.layout import Layout
from vtokens.engine.state.aside import several_aside


def check_copies(adapter: Adapter, layout: Layout, inputs: Mapping[str, Any]) -> None:
    """Raise `ValueError` where transformers gives copies of a row with several pictures features in the wrong order.

    Args:
        inputs: of the multimodal module.
    """
    copies, several = _repeated(adapter, layout, inputs), "videos"
    if copies == 1:
        copies = layout.copies
        if copies == 1:
            return
        mixed = adapter.mixes_copies and len({*layout.owner}) < len(layout.owner)
        several = "pictures" if mixed else several_aside(adapter, inputs) or ""
    if not several:
        return
    raise ValueError(
        f"a sample has several {several} and {copies} beams or returned sequences: for a "
        f"{type(adapter.model).__name__} transformers gives these features of the wrong {several}, with "
        "strategies or without. Generate with a single sequence per sample, or a single one of them in each"
    )


def _repeated(adapter: Adapter, layout: Layout, inputs: Mapping[str, Any]) -> int:
    """Copies of each row whose several videos were repeated one by one, as pixels; 1 if there are none.

    `generate` encodes a modality before it repeats rows if that has a feature call of its own, and repeats pixels
    otherwise (A, A, B, B), whose rows need them in turn. Reads the device, if a row has several videos.
    """
    pixels = inputs.get("pixel_values_videos")
    owners = [row for row, one in zip(layout.owner, layout.pictures, strict=True) if one.modality == "video"]
    if "video" not in adapter.anatomy.calls or pixels is None or len({*owners}) == len(owners):
        return 1
    ids = inputs.get("input_ids")
    rows = layout.visual if ids is None else ids
    texts, videos = _like_the_next(rows), _like_the_next(pixels)
    return next(n for n in range(len(rows), 0, -1) if len(rows) % n == 0 and _runs(texts, n) and _runs(videos, n))


def _like_the_next(rows: Tensor) -> list[bool]:
    """Whether each row but the last equals the one behind it."""
    same: list[bool] = (rows[1:] == rows[:-1]).flatten(1).all(1).tolist()
    return same


def _runs(alike: list[bool], length: int) -> bool:
    """Whether rows are equal within each of the runs of a length that they are cut into."""
    return (len(alike) + 1) % length == 0 and all(one or (n + 1) % length == 0 for n, one in enumerate(alike))
