"""HTML of what a notebook shows: tables and grids of patches, in colours that are legible on light and dark ground."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

import numpy as np

from vtokens.core.terminal import printable

KEPT = "#3b82f6"
_CELL = "padding:2px 10px;text-align:left;border-bottom:1px solid rgba(128,128,128,.4)"
_SIDE = 160  # pixels that the longer side of a grid takes


def text(content: object) -> str:
    """`content` as text that HTML shows and never obeys: markup and control characters are escaped."""
    return escape(printable(str(content)))


def block(*parts: str) -> str:
    """Parts in HTML below each other, in the notebook's own colours."""
    return f'<div style="color:inherit;background:transparent">{"".join(parts)}</div>'


def line(content: object) -> str:
    """A paragraph of escaped text."""
    return f'<p style="margin:4px 0">{text(content)}</p>'


def table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A table of escaped text; a row has as many cells as `head`."""
    lines = [_row("th", head), *(_row("td", row) for row in rows)]
    return f'<table style="border-collapse:collapse;color:inherit">{"".join(lines)}</table>'


def _row(tag: str, cells: Sequence[object]) -> str:
    inner = "".join(f'<{tag} style="{_CELL}">{text(cell)}</{tag}>' for cell in cells)
    return f"<tr>{inner}</tr>"


def grid(share: np.ndarray, title: object) -> str:
    """A grid of patches as SVG: the more layers saw a patch, the more opaque it is.

    Args:
        share: (h, w) float, the share of the layers that saw each patch, from 0 to 1.
        title: what the pointer is shown over the grid.
    """
    h, w = share.shape
    scale = _SIDE / max(h, w, 1)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{w * scale:.0f}" height="{h * scale:.0f}" '
        f'viewBox="0 0 {w} {h}" preserveAspectRatio="none" style="margin:4px 8px 4px 0">'
        f"<title>{text(title)}</title>"
        f'<rect width="{w}" height="{h}" fill="gray" fill-opacity=".25"/>'
        + "".join(
            f'<path d="{_runs(share == level)}" fill="{KEPT}" fill-opacity="{level:.3g}"/>'
            for level in np.unique(share[share > 0])
        )
        + "</svg>"
    )


def _runs(chosen: np.ndarray) -> str:
    """An SVG path around the True cells of (h, w), one rectangle for neighbours of a row."""
    edges = np.diff(np.pad(chosen, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    (rows, starts), (_, ends) = np.nonzero(edges == 1), np.nonzero(edges == -1)
    return "".join(
        f"M{x} {y}H{end}V{y + 1}H{x}Z" for y, x, end in zip(rows.tolist(), starts.tolist(), ends.tolist(), strict=True)
    )
