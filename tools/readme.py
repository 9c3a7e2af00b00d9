"""Writes every generated table but those of docs/reports and docs/contrastive.md: `python tools/readme.py`."""

from __future__ import annotations

from pathlib import Path
from statistics import mean, median

import benchmarks_page
import board
import choose_page
import filter_page
import pages
import results
import sections
import serving_page
import support
import your_model

from vtokens.strategies import describe, list_strategies

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
RESULTS_PAGE = ROOT / "docs" / "results.md"
COMMAND = "python tools/readme.py"
KEEPS = (0.5, 0.25, 0.1)


def costs() -> str:
    """Speed beside accuracy, from the recorded benchmarks."""
    speed = {row["strategy"]: row for row in results.read("prefill-cpu")["batch_1"]}
    scenes = {
        (row["strategy"], row["keep"]): row["accuracy"]["overall"] for row in results.read("scenes-llava")["rows"]
    }
    lines = [
        "| strategy | keep | first token | of the ideal | peak memory | KV cache | accuracy on scenes |",
        "|---|---|---|---|---|---|---|",
        f"| none | 1 | 1.00x | | 1.00 | 1.00 | {_share(scenes['none', 1.0])} |",
    ]
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
                _share(scenes[name, keep]),
            ]
            lines.append(f"| `{name}` | {keep} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _share(part: dict[str, float]) -> str:
    return f"{part['share']:.3f} [{part['low']:.3f}, {part['high']:.3f}]"


def sweep() -> str:
    """Every setting of the sweep on scenes, seeds together."""
    found = results.read("scenes-sweep")
    lines = [
        "| strategy | keep | tokens a layer | exact answers, % | KV cache | first token |",
        "|---|---|---|---|---|---|",
    ]
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
        lines.append(f"| `{row['name']}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


SECTIONS = {"lines": support.lines}
RESULTS_SECTIONS = {"costs": costs, "sweep": sweep}
BOARD = {"leaderboard": board.board}


def updated(text: str) -> str:
    """The README's `text` with fresh tables between their markers."""
    return sections.fill(text, SECTIONS, COMMAND)


def updated_results(text: str) -> str:
    """`text` of docs/results.md with fresh tables between their markers."""
    there = BOARD if sections.opening("leaderboard", COMMAND) in text else {}  # once it has been run
    return sections.fill(text, RESULTS_SECTIONS | there, COMMAND)


if __name__ == "__main__":
    pages.write()
    filter_page.write()
    serving_page.write()
    benchmarks_page.write()
    support.write()
    your_model.write()
    choose_page.write()
    README.write_text(updated(README.read_text(encoding="utf-8")), encoding="utf-8")
    RESULTS_PAGE.write_text(updated_results(RESULTS_PAGE.read_text(encoding="utf-8")), encoding="utf-8")
