"""Writes every generated table but those of docs/reports and docs/contrastive.md: `python tools/readme.py`."""

from __future__ import annotations

from statistics import mean, median

import benchmarks_page
import board
import boards
import choose_page
import filter_page
import pages
import serving_page
import support
import your_model
from shared import COMMAND, ROOT, Page, interval, markdown, read

from vtokens.strategies import describe, list_strategies

KEEPS = (0.5, 0.25, 0.1)


def costs() -> str:
    """Speed beside accuracy, from the recorded benchmarks."""
    speed = {row["strategy"]: row for row in read("prefill-cpu")["batch_1"]}
    scenes = {(row["strategy"], row["keep"]): row["accuracy"]["overall"] for row in read("scenes-llava")["rows"]}
    head = ["strategy", "keep", "first token", "of the ideal", "peak memory", "KV cache", "accuracy on scenes"]
    lines = [["none", "1", "1.00x", "", "1.00", "1.00", interval(scenes["none", 1.0])]]
    # Pictures say nothing about strategies that act on videos alone: those are measured elsewhere.
    measured = {name for name, _ in scenes}
    for name in (name for name in list_strategies() if "keep" in describe(name).fields and name in measured):
        for keep in KEEPS:
            row = speed[f"{name}(keep={keep})"]
            cells = [
                f"{row['speed_up']['median']:.2f}x",
                f"{row['of_ideal']['median']:.0%}",
                f"{row['peak_bytes']['pruned'] / row['peak_bytes']['unpruned']:.2f}",
                f"{row['kv_ratio']:.2f}",
                interval(scenes[name, keep]),
            ]
            lines.append([f"`{name}`", f"{keep}", *cells])
    return markdown(head, lines)


def sweep() -> str:
    """Every setting of the sweep on scenes, seeds together."""
    found = read("scenes-sweep")
    lines = []
    for row in found["summary"]:
        seeds = [one for one in found["results"] if (one["name"], one["keep"]) == (row["name"], row["keep"])]
        exact = f"{row['value']:.1%} [{row['low']:.1%}, {row['high']:.1%}]".replace("%", "")
        cells = [
            "" if row["keep"] is None else f"{row['keep']}",
            f"{mean(one['kept_tokens'] for one in seeds):.0f}",
            exact,
            f"{mean(one['kv_ratio'] for one in seeds):.2f}",
            f"{median(one['speedup'] for one in seeds):.2f}x",
        ]
        lines.append([f"`{row['name']}`", *cells])
    return markdown(["strategy", "keep", "tokens a layer", "exact answers, %", "KV cache", "first token"], lines)


README = Page(ROOT / "README.md", COMMAND, {"lines": support.lines})
RESULTS = Page(
    ROOT / "docs" / "results.md",
    COMMAND,
    {"costs": costs, "sweep": sweep, "leaderboard": board.board, **boards.parts()},
)
PAGES = (
    README,
    RESULTS,
    *(one.PAGE for one in (benchmarks_page, choose_page, filter_page, serving_page, support, your_model)),
)

if __name__ == "__main__":
    pages.write()
    for page in PAGES:
        page.write()
