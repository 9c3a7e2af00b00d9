"""The tables of docs/filter.md, from the signals and the recorded costs; `python tools/readme.py` writes them too."""

from __future__ import annotations

from typing import Any

from shared import ROOT, Page, markdown, read

from vtokens.filter.signals import get_signals, list_signals


def signals() -> str:
    """Every signal with what it costs and where it comes from."""
    lines = []
    for signal in sorted(get_signals(list_signals()), key=lambda one: (one.passes, one.name)):
        module = __import__(type(signal).__module__, fromlist=["__doc__"])
        about = str(module.__doc__).strip().splitlines()[0].rstrip(".")
        lines.append([f"`{signal.name}`", about, f"{signal.passes}", signal.paper or "-"])
    return markdown(["signal", "what it is", "more passes", "from"], lines)


def costs() -> str:
    """Checking and generating beside the plain model."""
    found = read("filter-cpu")
    lines = []
    for about in found["models"]:
        cells: dict[tuple[int, str, str], dict[str, str]] = {}
        for row in (row for row in found["rows"] if row["shape"] == about["shape"]):
            over = row["over_plain"]
            told = f"{over['median']:.2f}x ({over['q1']:.2f} to {over['q3']:.2f})"
            cells.setdefault((row["batch"], row["strategy"], row["signals"]), {})[row["run"]] = told
        for (size, strategy, names), cell in cells.items():
            with_ = "" if strategy == "none" else f" with `{strategy}`"
            name = f"{about['shape']}{with_}, {about['parameters'] / 1e6:,.0f}M"
            lines.append([name, f"{size}", names, cell["check"], cell.get("generate", "")])
    about = found["conditions"]
    return markdown(["model", "answers", "signals", "`check`", "`generate`"], lines) + (
        f"\n{about['tokens']} tokens an answer, {about['dtype']}, {about['threads']} thread(s), {about['device']}, "
        f"median of {about['rounds']} rounds with quartiles, {about['clock']}.\n"
    )


def _told(row: dict[str, Any], name: str) -> str:
    if row.get(name) is None:
        return "-"
    return f"{row[name]:.3f} ({row[f'{name}_low']:.3f} to {row[f'{name}_high']:.3f})"


def _behind(row: dict[str, Any]) -> str:
    return f"`{row['strategy']}`" if row["strategy"] != "none" else "no pruner"


def kinds() -> str:
    """How right the probabilities of the filters that ship are, by kind of mention."""
    found = read("filter-kinds")
    lines = []
    for row in found["rows"]:
        numbers = [f"{row['mentions']:,}", f"{row['unsupported']}", f"{row['mean_p']:.3f}"]
        lines.append([_behind(row), row["kind"], *numbers, _told(row, "ece"), _told(row, "auroc")])
    return (
        markdown(["behind", "mention", "mentions", "unsupported", "mean p", "ECE", "AUROC"], lines)
        + "\nscenes-llava on the test split, intervals by picture: `python benchmarks/filter_kinds.py`, with "
        "`--scale 0.5` behind pruners.\n"
    )


def risks() -> str:
    """What risks cost."""
    found = read("filter-kinds")
    head = [
        "behind",
        "risk (any, delta 0.1)",
        "answers",
        "with something wrong",
        "left after `redact`",
        "true ones kept",
    ]
    lines = []
    for row in found["risks"]:
        left = ["infeasible", ""] if row["infeasible"] else [f"{row['wrong_after']}", f"{row['kept']:.1%}"]
        lines.append([_behind(row), f"{row['alpha']:g}", f"{row['responses']:,}", f"{row['wrong_before']}", *left])
    return markdown(head, lines)


def gates() -> str:
    """What a gate lets through, and misses."""
    found = read("filter-kinds")
    lines = []
    for row in found["gates"]:
        share = f"{row['through']} ({row['through'] / row['answers']:.0%})"
        lines.append([_behind(row), row["kind"], f"{row['answers']}", share, f"{row['wrong']}", f"{row['missed']}"])
    return markdown(
        ["behind", "prompt", "answers", "let through", "with something wrong", "of these let through"], lines
    )


PAGE = Page(
    ROOT / "docs" / "filter.md",
    "python tools/filter_page.py",
    {"signals": signals, "costs": costs, "kinds": kinds, "risks": risks, "gates": gates},
)

if __name__ == "__main__":
    PAGE.write()
