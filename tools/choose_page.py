"""The tables of docs/choose.md: which pruner for which questions and budget, from what was measured, and what it costs.

The same rows that `auto` is chosen from (`benchmarks/choose.py`); nothing is in them that was not measured.
`python tools/readme.py` writes them too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import your_model
from shared import COMMAND, ROOT, Page, markdown, read

from vtokens.adapters.fits import fit
from vtokens.eval.presets import preset
from vtokens.strategies import describe
from vtokens.tables import choices

MODELS = {"scenes-llava": ("llava", 144), "scenes-qwen": ("qwen2_5_vl", 64)}
"""A model with a leaderboard -> its family, and how many visual tokens a picture has."""
TASKS = {
    "ocr": ("digits", "reading (digits)"),
    "grounding": ("where", "where something is"),
    "counting": ("counting", "how many"),
    "yes_no": ("pope", "whether something is there"),
    "general": ("all", "all questions"),
}
"""Task of `auto` -> its column of the leaderboard, and what it is called here."""
KEEPS = (0.5, 0.25, 0.1, 0.05)
FLOORS = ("random", "uniform")


def pictures(model: str = "scenes-llava") -> str:
    """For each kind of question and budget: the choice, the best other of a paper, the best in the decoder."""
    found, (family, tokens) = read(f"leaderboard-{model}"), MODELS[model]
    rows, about = found["rows"], found["conditions"]
    keeps = [keep for keep in KEEPS if any(row["keep"] == keep for row in rows)]
    full = next(row for row in rows if row["strategy"] == "none")
    head = ["asked", "keep", "unpruned", "`auto` takes", "the best other, from a paper"]
    head += ["inside the decoder (tokens a layer)", "`random`"]
    lines = []
    for task, (column, name) in TASKS.items():
        for keep in keeps:
            there = [row for row in rows if row["keep"] == keep and row is not full]
            floor = next(row for row in there if row["strategy"] == "random")
            fair, inside = _sides(there, floor)
            chosen = choices.choose(family, task, keep)
            papers = [row for row in fair if describe(row["strategy"]).paper and row["strategy"] != chosen.spec]
            second, third = _best(papers, column), _best(inside, column)
            cells = [
                name if keep == keeps[0] else "",
                f"{keep:g}",
                _right(full, column),
                f"`{chosen.spec}` {100 * chosen.share:.0f}{'' if chosen.ahead else ' *'}",
                f"`{second['strategy']}` {_right(second, column)}",
                f"`{third['strategy']}` {_right(third, column)} ({third['tokens_per_layer']:.0f})",
                _right(floor, column),
            ]
            lines.append(cells)
    told = (
        f"Right answers of 100. {about['questions_per_seed']} questions a draw, {about['seeds']} draws, on "
        f"`{model}` with {tokens} visual tokens. \\* not clearly ahead of `random`."
    )
    return f"{markdown(head, lines)}\n{told}\n"


def _sides(rows: Sequence[Mapping[str, Any]], floor: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
    """The rows with as few tokens a layer as random pruning has (and a tenth), and the others."""
    most = 1.1 * floor["tokens_per_layer"]
    fair = [row for row in rows if row["tokens_per_layer"] <= most]
    return fair, [row for row in rows if row["tokens_per_layer"] > most]


def _best(rows: Sequence[Mapping[str, Any]], column: str) -> Mapping[str, Any]:
    """Who answers most of a kind, then most of all, then the first by name."""
    return min(
        rows,
        key=lambda row: (-row["accuracy"][column]["value"], -row["accuracy"]["all"]["value"], row["strategy"]),
    )


def _right(row: Mapping[str, Any], column: str) -> str:
    return f"{100 * row['accuracy'][column]['value']:.0f}"


def videos() -> str:
    """The choice for clips at each budget."""
    lines = []
    known = [one for one in choices.known() if one.task == "video"]
    for one in sorted(known, key=lambda one: -one.keep):
        right = f"{100 * one.share:.0f} [{100 * one.low:.0f}, {100 * one.high:.0f}]{'' if one.ahead else ' *'}"
        lines.append([f"{one.keep:g}", f"`{one.spec}`", right, f"{100 * one.random:.0f}"])
    table = markdown(["keep", "chosen", "right, of 100", "`random`"], lines)
    return f"{table}\n{known[0].n} questions about clips of 16 frames, on `{known[0].model}`.\n"


def families() -> str:
    """How the pruners named above run on published models."""
    named = [name for name in _named() if name not in FLOORS]
    models = your_model.MODELS
    lines = []
    for name in named:
        answers = [fit(name, preset(model.preset).model_type) for model in models]
        lines.append([f"`{name}`", ", ".join(describe(name).stages), *answers])
    return markdown(["", "acts", *(model.name for model in models)], lines)


def _named() -> list[str]:
    """The strategies that the table of pictures names, in the order in which it does."""
    cells = [line.split("|")[4:7] for line in pictures().splitlines() if line.startswith("|")][2:]
    return list(dict.fromkeys(cell.split("`")[1] for row in cells for cell in row))


def times() -> str:
    """What a budget gains on a model of a size at which tokens cost: the first token, and the cache."""
    found = read("prefill-cpu")
    about = found["conditions"]
    rows = {row["strategy"]: row for row in found["batch_1"]}
    lines = []
    for name in ("uniform", "cls", "todre", "fastv"):
        for keep in (0.5, 0.25, 0.1):
            row = rows[f"{name}(keep={keep})"]
            gained = [f"{row['speed_up']['median']:.1f} times sooner", f"{row['of_ideal']['median']:.0%}"]
            lines.append([f"`{name}`", f"{keep:g}", *gained, f"{row['kv_ratio']:.2f}"])
    told = (
        f"{about['parameters'] / 1e6:.0f}M parameters, random weights, {about['visual_tokens']} visual and "
        f"{about['text_tokens']} text tokens, {about['dtype']}, {about['threads']} thread, {about['device']}, the "
        "vision tower included in both. Possible is what the same model gains that is given the kept tokens from the "
        "start."
    )
    head = ["", "keep", "first token", "of what is possible", "KV cache, of the full one"]
    return f"{markdown(head, lines)}\n{told}\n"


PARTS = {
    "pictures": pictures,
    "pictures on scenes-qwen": partial(pictures, "scenes-qwen"),
    "videos": videos,
    "families": families,
    "times": times,
}
PAGE = Page(ROOT / "docs" / "choose.md", COMMAND, PARTS)

if __name__ == "__main__":
    PAGE.write()
