"""The tables in docs/strategies: cards, and what was measured; `python tools/readme.py` writes them too."""

from __future__ import annotations

from functools import partial

import cards
from shared import COMMAND, ROOT, Page, interval, markdown, read

PAGES = ROOT / "docs" / "strategies"


def scenes(name: str) -> str:
    """Accuracy of a pruner against its budget, beside what random pruning keeps."""
    rows = {(row["strategy"], row["keep"]): row for row in read("scenes-llava")["rows"]}
    told = {cell: interval(row["accuracy"]["overall"]) for cell, row in rows.items()}
    lines = [["full", f"{rows['none', 1.0]['tokens_per_layer']:.0f}", told["none", 1.0], ""]]
    for strategy, keep in sorted(rows, key=lambda key: -key[1]):
        if strategy == name:
            row = rows[strategy, keep]
            lines.append([f"{keep:g}", f"{row['tokens_per_layer']:.1f}", told[name, keep], told["random", keep]])
    return markdown(["keep", "tokens a layer", "accuracy, all questions", "random"], lines) + (
        "\n990 questions of eleven kinds, 95% intervals ([benchmarks/scenes.py](../benchmarks.md)).\n"
    )


def agreement(name: str) -> str:
    """How often VHR's two divergences pick the same heads."""
    found = read("heads-scenes")
    about = found["conditions"]
    lines = [
        [f"{row['layer']}", f"{row['heads_decided_alike']:.0%}", f"{row['same_set']:.0%}"] for row in found["layers"]
    ]
    return markdown(["layer", "heads decided alike", "same set"], lines) + (
        f"\nPrompts of {about['questions']} held-out questions on the embedded model, {about['heads']} heads a layer "
        "([benchmarks/heads.py](../benchmarks.md)). Two random halves would decide 50% alike, and be the "
        "same set in 17% of the cases.\n"
    )


def tokens(name: str) -> str:
    """Accuracy against the tokens that merging left, with and without unmerging."""
    found = read("dymu-scenes")
    lines = []
    for row in found["rows"]:
        counts, accuracy = row["tokens"], row["accuracy"]
        counting = [accuracy[kind] for kind in ("count_all", "count_colour", "count_shape")]
        cells = [
            f"`{row['strategy']}`",
            f"{counts['mean']:.1f} ({counts['p5']:.0f} to {counts['p95']:.0f})",
            interval(accuracy["overall"]),
            f"{sum(c['value'] for c in counting) / len(counting):.3f}",
            f"{accuracy['caption']['value']:.3f}",
        ]
        lines.append(cells)
    middle = found["rows"][2]
    few, many = (middle["tokens_by_objects"][n] for n in ("1", "6"))
    head = ["", "tokens a layer, mean (5% to 95%)", "all questions", "counting", "captions"]
    return markdown(head, lines) + (
        f"\n{found['rows'][0]['accuracy']['overall']['n']} questions of eleven kinds, 95% intervals "
        f"([benchmarks/dymu.py](../benchmarks.md)). `{middle['strategy']}` leaves {few:.0f} tokens of a "
        f"picture with one object, {many:.0f} of one with six.\n"
    )


def merging(name: str) -> str:
    """Times and bytes of merging beside the model that merges nothing."""
    found = read("merging-cpu")
    about = found["conditions"]
    lines = []
    for row in found["rows"]:
        times = [f"{row['over_plain'][part]['median']:.2f}" for part in ("tower", "first token", "decoding step")]
        share = row["kv_bytes"] / row["kv_bytes_full"]
        lines.append([row["run"], f"{row['visual_tokens']:.0f}", *times, f"{share:.2f}"])
    return markdown(["", "tokens", "tower", "first token", "decoding step", "KV bytes"], lines) + (
        f"\nTimes over those without merging, {about['parameters'] / 1e6:.0f}M parameters with random weights "
        f"(LLaVA-1.5-7B, widths divided by four, half its depth), {about['dtype']}, one thread, "
        f"{about['device']}, median of {about['rounds']} rounds, {about['clock']} "
        "([benchmarks/merging.py](../benchmarks.md)).\n"
    )


SECTIONS = {
    "card": cards.card,
    "strategies": cards.index,
    "scenes": scenes,
    "agreement": agreement,
    "tokens": tokens,
    "merging": merging,
}


def page(name: str) -> Page:
    """The page of a strategy, or of all of them, "README"."""
    parts = {section: partial(table, name) for section, table in SECTIONS.items()}
    return Page(PAGES / f"{name}.md", COMMAND, parts, some=True)


def write() -> None:
    """Bring all pages up to date."""
    for path in PAGES.glob("*.md"):
        page(path.stem).write()
