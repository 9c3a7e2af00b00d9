"""The style that all figures of matplotlib share."""

from __future__ import annotations

from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .palette import LIGHT, Style

INK, GREY, GRID = "#1a1f27", "#566070", "#dcdfe5"
RC: Any = {"font.size": 9, "axes.edgecolor": GREY, "axes.labelcolor": GREY, "xtick.color": GREY, "ytick.color": GREY}


def figure(width: float, height: float) -> Figure:
    """An empty figure in inches, independent of any backend a caller has chosen."""
    found = Figure(figsize=(width, height), facecolor="white", layout="constrained")
    FigureCanvasAgg(found)
    return found


def colour(style: Style) -> str:
    """The colour of a strategy on white."""
    return INK if style.colour is None else LIGHT[style.colour]


def short(label: str) -> str:
    """The label with its middle left out where it is long."""
    return label if len(label) <= 40 else f"{label[:26]}…{label[-13:]}"
