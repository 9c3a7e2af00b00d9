"""Draws docs/reports/hallucination-scenes.md: attention maps before and after, and where the figures come from."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from benchmarks.watching import Seen
from vtokens.scenes import CLASSES, PAIRS, Example
from vtokens.scenes.world import IMAGE, PATCH

_SIDE = IMAGE // PATCH


def draw_maps(example: Example, before: Sequence[Seen], after: Sequence[Seen], path: Path) -> None:
    """Where the last prompt position looks, layer by layer (heads averaged), without and with VHR, then head by head.

    Each map is scaled to its own maximum, and its title tells how much of all attention falls on the picture.
    """
    depth, heads = len(before), before[0].weights.shape[1]
    figure = Figure(figsize=(1.55 * (depth + 1), 1.8 * (2 + heads)), layout="constrained")
    axes = figure.subplots(2 + heads, depth + 1)
    for row in axes:
        for cell in row:
            cell.set(xticks=[], yticks=[])
    for row, label in enumerate(["plain", "vhr", *(f"vhr, head {head}" for head in range(heads))]):
        _scene(axes[row][0], example, label)
    for seen, changed in zip(before, after, strict=True):
        column = [axes[row][seen.layer + 1] for row in range(2 + heads)]
        _map(column[0], example, _on_picture(seen).mean(0), f"layer {seen.layer}\n")
        _map(column[1], example, _on_picture(changed).mean(0))
        for head in range(heads):
            _map(column[2 + head], example, _on_picture(changed)[head])
            if changed.chosen is not None and changed.chosen[0, head]:
                column[2 + head].spines[:].set(color="tab:red", linewidth=2.5)
    figure.suptitle(
        f"{example.question}   (right: {example.answer}; red frames: heads that VHR scales up)", fontsize=11
    )
    save(figure, path, dpi=90)


def draw_why(result: dict[str, Any], path: Path) -> None:
    """Four panels: how huge states get, who holds the attention, what VHR's factor does, what it rests on."""
    figure = Figure(figsize=(11, 7.5), layout="constrained")
    (sinks, mass), (alpha, cause) = figure.subplots(2, 2)
    for axes in (sinks, mass, alpha, cause):
        axes.spines[["top", "right"]].set_visible(False)
    _sinks(sinks, result["layers"])
    _mass(mass, result["layers"])
    _alpha(alpha, result["alpha"], result["controls"][:2])
    _causes(cause, result["causes"])
    save(figure, path, dpi=120)


def save(figure: Figure, path: Path, dpi: int) -> None:
    """Write a PNG of 128 colours, a quarter of the bytes."""
    whole = io.BytesIO()
    figure.savefig(whole, dpi=dpi)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.open(whole).convert("RGB").quantize(128).save(path, optimize=True)


def _scene(axes: Any, example: Example, label: str) -> None:
    axes.imshow(example.image)
    axes.set_ylabel(label)
    triggers = {pair.trigger for pair in PAIRS}
    for thing in example.scene.visible:
        if thing.number in triggers:
            left, top, right, bottom = thing.box
            axes.add_patch(
                Rectangle((left - 2, top - 2), right - left + 3, bottom - top + 3, fill=False, color="white")
            )
            axes.set_title(CLASSES[thing.number], fontsize=7, pad=2)


def _map(axes: Any, example: Example, weights: Any, title: str = "") -> None:
    axes.imshow(example.image.convert("L"), cmap="gray", alpha=0.55)
    grid = weights.reshape(_SIDE, _SIDE)
    axes.imshow(grid, cmap="inferno", alpha=0.75, vmin=0, extent=(-0.5, IMAGE - 0.5, IMAGE - 0.5, -0.5))
    axes.set_title(f"{title}{float(weights.sum()):.2f} on it", fontsize=7, pad=2)


def _on_picture(seen: Seen) -> Any:
    """(H, N) of the only sample."""
    return seen.weights[0][:, seen.visual[0]].numpy()


def _sinks(axes: Any, layers: Sequence[dict[str, Any]]) -> None:
    at = [row["layer"] for row in layers]
    axes.axhline(20, color="tab:red", linestyle="--", linewidth=1)
    axes.annotate("the paper's threshold, 20", (0, 20), xytext=(0, 3), textcoords="offset points", color="tab:red")
    axes.axhline(128**0.5, color="0.5", linestyle=":")
    axes.annotate(
        "most that 128 dimensions allow", (0, 128**0.5), xytext=(0, 3), textcoords="offset points", color="0.4"
    )
    for key, label in (("phi_first_token", "first token"), ("phi_visual_max", "visual, largest")):
        axes.plot(at, [row[key] for row in layers], marker="o", label=label)
    axes.plot(at, [row["phi_visual_median"] for row in layers], marker=".", color="0.6", label="visual, median")
    axes.set(title="No sinks: largest activation over RMS", xlabel="decoder layer", ylim=(0, 22))
    axes.legend(frameon=False, fontsize=8, loc=(0.02, 0.3))


def _mass(axes: Any, layers: Sequence[dict[str, Any]]) -> None:
    at = [row["layer"] for row in layers]
    first, visual = (np.array([row[key] for row in layers]) for key in ("mass_first_token", "mass_visual"))
    axes.bar(at, visual, label="visual tokens", color="tab:blue")
    axes.bar(at, 1 - first - visual, bottom=visual, label="other text", color="0.8")
    axes.bar(at, first, bottom=1 - first, label="first token", color="tab:red")
    axes.set(title="What the last prompt position attends to", xlabel="decoder layer", ylim=(0, 1))
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))


def _alpha(axes: Any, rows: Sequence[dict[str, Any]], usual: Sequence[dict[str, Any]]) -> None:
    """`usual` are the rows without VHR and with the paper's factor."""
    by_factor = dict(zip((1.0, 2.0), usual, strict=True)) | {float(row["label"][11:-2]): row for row in rows}
    at = sorted(by_factor)
    for number, pair in enumerate(PAIRS):
        name = CLASSES[pair.partner]
        found = [next(p for p in by_factor[factor]["partners"] if p["partner"] == name) for factor in at]
        for key, style, marker in (("says_yes", "-", "o"), ("names_it", "--", "")):
            middle, low, high = (np.array([part[key][k] for part in found]) for k in ("value", "low", "high"))
            label = f"{name}, dose {pair.dose:g}" if key == "says_yes" else None
            axes.plot(at, middle, linestyle=style, marker=marker, color=f"C{number}", label=label)
            if key == "says_yes":
                axes.fill_between(at, low, high, color=f"C{number}", alpha=0.15, linewidth=0)
    axes.axvline(1, color="0.7", linewidth=1, zorder=0)
    axes.set(title="Missing partner seen: asked (solid), captions (dashed)", ylim=(0, 1))
    axes.set_xlabel("VHR's factor (1: off, 2: the paper's)")
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.15), "ncols": 2}  # lines fill all of the panel
    axes.legend(frameon=False, fontsize=8, handlelength=1.2, columnspacing=1, **below)


def _causes(axes: Any, rows: Sequence[dict[str, Any]]) -> None:
    row = rows[-1]
    bars = [("asked: " + name, found) for name, found in row["questions"].items()]
    bars += [("caption: " + name, found) for name, found in row["captions"].items()]
    for number, (_, found) in enumerate(bars):
        low, high = found["value"] - found["low"], found["high"] - found["value"]
        colour = "tab:blue" if number < len(row["questions"]) else "tab:orange"
        axes.barh(number, found["value"], xerr=[[low], [high]], color=colour, capsize=2, height=0.7)
    axes.set_yticks(range(len(bars)), [name for name, _ in bars], fontsize=8)
    axes.invert_yaxis()
    axes.set(title=f"Missing {row['partner']} seen, parts covered", xlim=(0, 1))
