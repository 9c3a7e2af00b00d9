"""Draws docs/reports/mitigation.md: what answers became, what captions paid, and where margins moved."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.hallucination_pictures import save

Row = dict[str, Any]
_GOOD = {"no longer made up": "tab:green", "found": "tab:olive"}
_BAD = {"made up": "tab:red", "lost": "tab:orange"}


def draw_flips(rows: Sequence[Row], path: Path) -> None:
    """For each model a bar a mitigation: adversarial answers that got right, to the right, and wrong, to the left."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    figure = Figure(figsize=(5.6 * len(models), 6.2), layout="constrained")
    for axes, model in zip(figure.subplots(1, len(models), squeeze=False)[0], models, strict=True):
        found = [row for row in _alone(rows, model) if "flips" in row]
        asked = found[0]["pope"]["adversarial"]["accuracy"]["n"]
        for at, row in enumerate(found):
            right = left = 0.0
            for name, colour in _GOOD.items():
                width = row["flips"][name] / asked
                axes.barh(at, width, left=right, color=colour, label=name if at == 0 else None)
                right += width
            for name, colour in _BAD.items():
                width = row["flips"][name] / asked
                axes.barh(at, -width, left=-left, color=colour, label=name if at == 0 else None)
                left += width
        axes.axvline(0, color="0.3", linewidth=1)
        axes.set_yticks(range(len(found)), [row["strategy"] for row in found], fontsize=8)
        axes.invert_yaxis()
        axes.set(title=f"{model}: adversarial answers that changed", xlabel="share of questions: got wrong | got right")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8, loc="best")
    save(figure, path, dpi=100)


def draw_trade(rows: Sequence[Row], path: Path) -> None:
    """Inventions against what is left unsaid in captions, a point a mitigation, with the plain model's lines."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    figure = Figure(figsize=(5.6 * len(models), 5), layout="constrained")
    for axes, model in zip(figure.subplots(1, len(models), squeeze=False)[0], models, strict=True):
        found = _alone(rows, model)
        plain = found[0]["chair"]
        axes.axvline(1 - plain["recall"]["value"], color="0.7", linewidth=1, zorder=0)
        axes.axhline(plain["chair_i"]["value"], color="0.7", linewidth=1, zorder=0)
        lengths = [row["chair"]["length"]["value"] for row in found]
        unsaid = [1 - row["chair"]["recall"]["value"] for row in found]
        made_up = [row["chair"]["chair_i"]["value"] for row in found]
        dots = axes.scatter(unsaid, made_up, c=lengths, cmap="viridis", s=36, edgecolors="0.2", linewidths=0.5)
        for x, y, row in zip(unsaid, made_up, found, strict=True):
            axes.annotate(row["strategy"], (x, y), xytext=(4, 3), textcoords="offset points", fontsize=7)
        figure.colorbar(dots, ax=axes, label="objects a caption names")
        axes.set(title=f"{model}: captions", xlabel="share of what is there left unsaid", ylabel="CHAIR_I")
        axes.spines[["top", "right"]].set_visible(False)
    save(figure, path, dpi=100)


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
        names = [f"{row['strategy']}  ({row['auroc']['value']:.2f})" for row in found]
        axes.set_yticks(range(len(found)), names, fontsize=8)
        axes.invert_yaxis()
        axes.set_xscale("symlog", linthresh=5)
        axes.set(title=f"{model}: what is there, and missing partners", xlabel="logit of yes over that of no (AUROC)")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    save(figure, path, dpi=100)


def _alone(rows: Sequence[Row], model: str) -> list[Row]:
    return [row for row in rows if (row["model"], row["base"]) == (model, "none") and "pope" in row]
