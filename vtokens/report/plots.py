"""The charts of the page as PNG files, for papers and slides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from . import palette
from .answers import Answers
from .charts import against_speed, against_tokens, summary_charts
from .flips import Flips, pick
from .pictures import drawn
from .plot_bars import changed, memory, times
from .plot_scatter import scatters
from .plot_style import INK, RC, figure, short
from .results import Results
from .text import keep_text


def write(results: Results, answers: Answers, changes: Sequence[Flips], folder: Path) -> list[Path]:
    """Write the plots there is something for: tokens, speed, time, memory, flips and kept patches.

    Returns:
        The files written. A plot of an earlier report that has nothing to show now is removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    styles, both = palette.styles(results.names), summary_charts(results)
    tokens = [*([both[0]] if both else []), *(against_tokens(results, m) for m in results.headlines)]
    speed = [*([both[1]] if both else []), *(against_speed(results, m) for m in results.headlines)]
    plots: dict[str, Callable[[], Figure | None]] = {
        "tokens": lambda: scatters(styles, tokens),
        "speed": lambda: scatters(styles, speed),
        "time": lambda: times(results),
        "memory": lambda: memory(results),
        "flips": lambda: changed(changes),
        "kept": lambda: _kept(results, answers),
    }
    written = []
    with matplotlib.rc_context(RC):
        for name, make in plots.items():
            path = folder / f"{name}.png"
            drawing = make()
            if drawing is None:
                path.unlink(missing_ok=True)
                continue
            drawing.savefig(path, dpi=160)
            written.append(path)
    return written


def _kept(results: Results, answers: Answers) -> Figure | None:
    """The most telling question: a row for each keep, a column for each strategy."""
    for question in pick(answers, 1):
        shots = {
            s.key: (s, drawn(question, question.given[s.key])) for s in results.settings if s.key in question.given
        }
        images = [(setting, image) for setting, image in shots.values() if image is not None]
        names = list(dict.fromkeys(setting.name for setting, _ in images))[:8]
        keeps = list(dict.fromkeys(keep_text(setting) for setting, _ in images if setting.keep is not None))[:4]
        lines = max(1, len(keeps))
        drawing = figure(1.75 * len(names) + 0.2, 2.05 * lines + 0.6)
        axes = drawing.subplots(lines, len(names), squeeze=False)
        for axis in axes.flat:
            axis.set_axis_off()
        for setting, image in images:
            if setting.name in names and (setting.keep is None or keep_text(setting) in keeps):
                row = 0 if setting.keep is None else keeps.index(keep_text(setting))
                axis = axes[row][names.index(setting.name)]
                axis.imshow(image)
                given = question.given[setting.key]
                sign = {True: "right", False: "wrong", None: ""}[given.correct]
                axis.set_title(f"{short(setting.label)}\n{given.text[:18]!r} {sign}", fontsize=7.5, color=INK)
        drawing.suptitle(f"{question.text[:90]}  truth: {question.target[:40]}", fontsize=9.5, color=INK)
        return drawing
    return None
