"""What each layer carries from the picture to the answer, as a figure of matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.ticker import MaxNLocator

from .palette import LIGHT
from .plot_style import GRID, INK, RC, figure

_MARKS = "osD^vP"


def draw_flow(middles: Sequence[int], changes: Mapping[str, Sequence[Sequence[float]]], title: str, path: Path) -> None:
    """Save lines over depth: how much less likely the answer gets, the mean and twice its standard error.

    Args:
        middles: the decoder layer in the middle of each window.
        changes: by the name of a route, for each window what each prompt's answer loses or gains, as a share.
        title: of the figure.
        path: where to; its ending says the format, as of matplotlib.
    """
    with matplotlib.rc_context(RC):
        drawing = figure(5.6, 3.4)
        axis = drawing.subplots()
        axis.set_title(title, fontsize=10, loc="left", color=INK)
        axis.set_xlabel("decoder layer in the middle of what is knocked out")
        axis.set_ylabel("change of the answer's probability, %")
        axis.grid(axis="y", color=GRID, lw=0.8)
        axis.spines[["top", "right"]].set_visible(False)
        axis.axhline(0, color=INK, lw=1, ls=(0, (6, 4)), alpha=0.6)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        for number, (name, found) in enumerate(changes.items()):
            values = 100 * np.asarray(found, dtype=float)
            # One prompt alone tells nothing of the spread: a line without a band.
            spread = values.std(1, ddof=1) if values.shape[1] > 1 else np.zeros(len(values))
            mean, error = values.mean(1), 2 * spread / values.shape[1] ** 0.5
            colour, mark = LIGHT[number % len(LIGHT)], _MARKS[number % len(_MARKS)]
            axis.fill_between(middles, mean - error, mean + error, color=colour, alpha=0.15, lw=0)
            axis.plot(middles, mean, marker=mark, ms=5, label=name, color=colour, lw=1.6)
        axis.legend(frameon=False)
        drawing.savefig(path, dpi=160)
