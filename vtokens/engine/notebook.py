"""What a notebook shows of a prefill: a table of tokens and costs, and the patches that were kept of each picture."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from vtokens.core import notebook

if TYPE_CHECKING:
    from vtokens.engine.report import KeptPicture, Report

_MOST = 16  # grids that a report draws


def report_html(report: Report) -> str:
    """A report in HTML. Pixels are not at hand, so patches are drawn as cells, at most 16 grids of them."""
    full = sum(kept.picture.tokens for sample in report.samples for kept in sample.pictures)
    counts = [sum(layer) for layer in zip(*(sample.visual_tokens for sample in report.samples), strict=True)]
    rows: list[tuple[object, ...]] = []
    for count, alike in groupby(range(len(counts)), counts.__getitem__):
        layers = list(alike)
        which = f"layer {layers[0]}" if len(layers) == 1 else f"layers {layers[0]} to {layers[-1]}"
        rows.append((f"visual tokens, {which}", count, full))
    rows += [
        ("prefill, GFLOPs", f"{report.flops / 1e9:.3g}", f"{report.flops_full / 1e9:.3g}"),
        ("KV cache, MB", f"{report.kv_bytes / 1e6:.3g}", f"{report.kv_bytes_full / 1e6:.3g}"),
        ("selecting, ms", f"{1e3 * report.select_seconds:.2f}", ""),
    ]
    grids = [
        drawing
        for row, sample in enumerate(report.samples)
        for number, kept in enumerate(sample.pictures)
        for drawing in _grids(kept, f"sample {row}, {kept.picture.modality} {number}")
    ]
    more = [notebook.line(f"and {len(grids) - _MOST} more grids")] if len(grids) > _MOST else []
    return notebook.block(
        notebook.line(f"{report.strategy}, {len(report.samples)} sample(s)"),
        notebook.table(("", "as run", "unpruned"), rows),
        *map(notebook.line, report.contributions),
        "" if report.branch is None else notebook.line(report.branch),
        *(notebook.grid(share, title) for share, title in grids[:_MOST]),
        *more,
    )


def _grids(kept: KeptPicture, name: str) -> list[tuple[np.ndarray, str]]:
    """For each view and frame: (h, w) float32, the share of the layers that saw each cell, and a title."""
    picture, depth = kept.picture, max(len(kept.kept), 1)
    seen = np.zeros(len(picture), dtype=np.int64)
    for positions in kept.kept:
        seen[positions] += 1
    found = []
    for view, (frames, h, w) in enumerate(picture.grids):
        share = np.zeros((frames, h, w), dtype=np.float32)
        inside = picture.view == view
        share[picture.t[inside], picture.y[inside], picture.x[inside]] = seen[inside] / depth
        for frame in range(frames):
            parts = [name, f"view {view}" if len(picture.grids) > 1 else "", f"frame {frame}" if frames > 1 else ""]
            found.append((share[frame], ", ".join(filter(None, parts)) + f": {h} x {w} patches"))
    return found
