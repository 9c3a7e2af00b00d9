"""What a notebook shows of a prefill: a table of tokens and costs, and the patches that were kept of each picture."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np

from vtokens.core import notebook
from vtokens.core.kept import KeptPicture, SampleReport

_MOST = 16  # grids that a report draws


def report_html(
    strategy: str, samples: Sequence[SampleReport], costs: Sequence[tuple[str, str, str]], lines: Sequence[object]
) -> str:
    """A report in HTML. Pixels are not at hand, so patches are drawn as cells, at most 16 grids of them.

    Args:
        strategy: as text.
        samples: the rows of the batch.
        costs: rows of the table behind those of tokens: name, as run, unpruned.
        lines: what is said below the table, one paragraph each.
    """
    full = sum(kept.picture.tokens for sample in samples for kept in sample.pictures)
    counts = [sum(layer) for layer in zip(*(sample.visual_tokens for sample in samples), strict=True)]
    rows: list[tuple[object, ...]] = []
    for count, alike in groupby(range(len(counts)), counts.__getitem__):
        layers = list(alike)
        which = f"layer {layers[0]}" if len(layers) == 1 else f"layers {layers[0]} to {layers[-1]}"
        rows.append((f"visual tokens, {which}", count, full))
    grids = [
        drawing
        for row, sample in enumerate(samples)
        for number, kept in enumerate(sample.pictures)
        for drawing in _grids(kept, f"sample {row}, {kept.picture.modality} {number}")
    ]
    more = [notebook.line(f"and {len(grids) - _MOST} more grids")] if len(grids) > _MOST else []
    return notebook.block(
        notebook.line(f"{strategy}, {len(samples)} sample(s)"),
        notebook.table(("", "as run", "unpruned"), [*rows, *costs]),
        *map(notebook.line, lines),
        *(notebook.grid(share, title) for share, title in grids[:_MOST]),
        *more,
    )


def _grids(kept: KeptPicture, name: str) -> list[tuple[np.ndarray, str]]:
    """For each view and frame: (h, w) float32, the share of the layers that saw each cell, and a title."""
    picture, found = kept.picture, []
    for view, (frames, h, w) in enumerate(picture.grids):
        share = kept.brightness(view)
        for frame in range(frames):
            parts = [name, f"view {view}" if len(picture.grids) > 1 else "", f"frame {frame}" if frames > 1 else ""]
            found.append((share[frame], ", ".join(filter(None, parts)) + f": {h} x {w} patches"))
    return found
