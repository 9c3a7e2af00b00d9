"""Draws docs/reports/mitigation.md: what is said of what is there and what is not, captions, and margins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from benchmarks.hallucination_pictures import save
from benchmarks.mitigation_page import rates

Row = dict[str, Any]


def draw_answers(found: Mapping[str, Sequence[Row]], path: Path) -> None:
    """How often yes is said to what is there and to what is missing: hollow on the plain model, full with each method.

    found: rows by model, those of the plain model before those that were asked the same.
    """
    figure, panels = _panels(found, 1)
    for (axes,), (model, rows) in zip(panels, found.items(), strict=True):
        names, plain = [], (0.0, 0.0)
        for row in rows:
            if "against" not in row:
                plain = rates(row)
                continue
            at = len(names)
            names.append(row["strategy"])
            for before, after, colour, label in zip(plain, rates(row), ("C0", "C3"), ("there", "missing"), strict=True):
                axes.plot([before, after], [at, at], color=colour, linewidth=1.5, alpha=0.5)
                axes.plot(before, at, "o", color=colour, fillstyle="none", markersize=5)
                axes.plot(after, at, "o", color=colour, markersize=5, label=label if at == 0 else None)
        _finish(
            axes,
            names,
            f"{model}: yes to what is there, and to what is missing",
            "share of adversarial questions answered yes",
        )
        axes.set_xlim(-0.03, 1.03)
        axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(0, 1))
    save(figure, path, dpi=100)


def draw_captions(found: Mapping[str, Sequence[Row]], path: Path) -> None:
    """By how much captions invent more, leave less unsaid and get longer than the plain model's, with 95% intervals."""
    figures = (("chair_i", "CHAIR_I"), ("recall", "recall"), ("length", "objects named"))
    figure, panels = _panels(found, len(figures))
    for line, (model, rows) in zip(panels, found.items(), strict=True):
        changed = [row for row in rows if "against" in row]
        for axes, (key, label) in zip(line, figures, strict=True):
            for at, row in enumerate(changed):
                part = row["against"]["chair"][key]
                if part is None:
                    continue
                clear = part["low"] > 0 or part["high"] < 0
                worse = (part["value"] > 0) == (key != "recall")
                colour = ("tab:red" if worse else "tab:green") if clear and key != "length" else "k" if clear else "0.6"
                axes.plot([part["low"], part["high"]], [at, at], color=colour, linewidth=1.5)
                axes.plot(part["value"], at, "o", color=colour, markersize=4)
            first = axes is line[0]
            _finish(axes, [row["strategy"] for row in changed] if first else [], f"{model}: {label}", "over plain")
            _scale(axes, 10 if key == "length" else 1)
            if not first:
                axes.sharey(line[0])
                axes.tick_params(labelleft=False)
    save(figure, path, dpi=100)


def _scale(axes: Any, unit: float) -> None:
    """Even near zero, logarithmic beyond, with round numbers for ticks."""
    low, high = axes.get_xlim()
    axes.set_xscale("symlog", linthresh=0.02 * unit)
    ticks = [sign * unit * size for size in (0.02, 0.1, 0.5) for sign in (-1, 1)]
    axes.set_xticks([0, *(tick for tick in ticks if low <= tick <= high)])
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:+g}" if value else "0")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(low, high)


def _panels(found: Mapping[str, Sequence[Row]], each: int) -> tuple[Figure, list[list[Any]]]:
    """A line of panels a model."""
    tall = [sum("against" in row for row in rows) for rows in found.values()]
    width = 7.5 if each == 1 else 11
    figure = Figure(figsize=(width, 0.24 * sum(tall) + 1.3 * len(tall)), layout="constrained")
    grid = figure.subplots(len(tall), each, squeeze=False, gridspec_kw={"height_ratios": tall})
    return figure, [list(line) for line in grid]


def _finish(axes: Any, names: Sequence[str], title: str, label: str) -> None:
    axes.axvline(0, color="0.7", linewidth=1, zorder=0)
    if names:
        axes.set_yticks(range(len(names)), names, fontsize=8)
        axes.invert_yaxis()
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(label, fontsize=8)
    axes.tick_params(axis="x", labelsize=7)
    axes.grid(axis="y", color="0.93", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def draw_margins(rows: Sequence[Row], path: Path) -> None:
    """Quartiles of logit(yes) - logit(no), for what is there and for missing partners, a line a mitigation."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    figure = Figure(figsize=(5.6 * len(models), 6.2), layout="constrained")
    for axes, model in zip(figure.subplots(1, len(models), squeeze=False)[0], models, strict=True):
        found = [row for row in rows if row["model"] == model]
        for at, row in enumerate(found):
            for name, colour, shift in (("there", "tab:blue", -0.16), ("missing", "tab:red", 0.16)):
                part = row["margins"][name]
                axes.plot([part["low"], part["high"]], [at + shift] * 2, color=colour, linewidth=2.5, alpha=0.6)
                axes.plot(part["middle"], at + shift, "o", color=colour, markersize=4, label=name if at == 0 else None)
        axes.axvline(0, color="0.3", linewidth=1)
        names = [f"{row['strategy']}\nAUROC {row['auroc']['value']:.3f}" for row in found]
        axes.set_yticks(range(len(found)), names, fontsize=8)
        axes.invert_yaxis()
        axes.set_xscale("symlog", linthresh=5)
        axes.set_xticks([-5, -2, 0, 2, 5, 10, 20], ["-5", "-2", "0", "2", "5", "10", "20"])
        axes.set(title=f"{model}: margins of what is there and missing", xlabel="logit of yes over that of no")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    save(figure, path, dpi=100)
