"""Which mitigations there are, and their figures from their replies: draws pooled, compared with their base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.hallucination_rows import Row, caption_counts, make_row
from benchmarks.mitigation_recipes import again
from vtokens.eval.metrics import yes_no
from vtokens.scenes import Example
from vtokens.strategies.registry import describe, list_strategies

BASES = ("none", "cls(keep=0.25)", "fastv(keep=0.25)", "census(keep=0.25)")
POOLED = "all seeds"
"""What the answers of all trained seeds together are called in a table."""
STAGES = {"attend", "states", "logits"}
LEFT_OUT = {
    "mminference": "saves attention of long prompts, and mitigates nothing",
    "restore": "brings back what a pruner dropped",
    "yopo": "saves attention among visual tokens",
    "lqcd": "asks another prompt, which the user writes",
}
"""Strategies of those stages that are no mitigation, or not of themselves, and why."""
SETTINGS = {
    "contrast": ["contrast", "contrast(branch='cls(keep=0.1)')"],
    "pai": ["pai", "pai(alpha=0.2, gamma=1)", "pai(alpha=0.2)"],
    "vhr": ["vhr", "vhr(divergence='two_branch')"],
}
"""Settings of one strategy that are methods of their own; every other one runs with its defaults."""
FLIPS = {
    (False, True): "made up",
    (False, False): "no longer made up",
    (True, False): "lost",
    (True, True): "found",
}
"""What an adversarial answer that changed has become, by (the object is there, the answer is yes)."""


def mitigations() -> list[str]:
    """The specs to measure: every registered strategy that acts inside attention, on states or on logits."""
    names = [name for name in list_strategies() if STAGES & {*describe(name).stages} and name not in LEFT_OUT]
    return [spec for name in names for spec in SETTINGS.get(name, [name])]


def specs_on(base: str, extras: Sequence[str] | None = None) -> list[str]:
    """The base itself, then every mitigation on top of it, and every recipe, or these."""
    chosen = [*mitigations(), *again()] if extras is None else extras
    return [base, *(one if base == "none" else f"{base}+{one}" for one in chosen)]


def table(
    specs: Sequence[str],
    base: str,
    cells: Mapping[str, Mapping[Any, Row]],
    exams: Mapping[Any, Sequence[Example]],
) -> list[Row]:
    """A row for the first of `specs`, which is `base`, and for each of the others, which is compared with it.

    cells: what was asked, by spec and draw, or model and draw. A row is of the draws in which it and what it is
    compared with have been asked; without any there is none. The base itself is compared with the plain model where it
    is another.
    """
    rows = []
    for spec in specs:
        against = "none" if spec == base else base
        mine, others = cells.get(spec, {}), cells.get(against, {})
        draws = [draw for draw in exams if draw in mine and draw in others]
        if not draws:
            continue
        row: Row = {"strategy": spec, "base": base}
        if "refused" in mine[draws[0]]:
            rows.append({**row, "refused": mine[draws[0]]["refused"]})
            continue
        asked = [example for draw in draws for example in exams[draw]]
        ours, theirs = ([text for draw in draws for text in side[draw]["texts"]] for side in (mine, others))
        row |= {"draws": draws, "tokens": sum(mine[draw]["tokens"] for draw in draws) / len(draws)}
        if "passes" in mine[draws[0]]:
            row["passes"] = sum(mine[draw]["passes"] for draw in draws) / len(draws)
        row |= make_row(asked, ours, None if against == spec else theirs)
        row["by_draw"] = [_brief(exams[draw], mine[draw]["texts"]) for draw in draws]
        if against != spec:
            row["flips"] = flips(asked, ours, theirs)
        rows.append(row)
    return rows


def flips(asked: Sequence[Example], ours: Sequence[str], theirs: Sequence[str]) -> dict[str, int]:
    """What became of adversarial answers that changed, and how many are neither yes nor no."""
    found = dict.fromkeys(FLIPS.values(), 0) | {"neither": 0}
    for example, a, b in zip(asked, map(yes_no, ours), map(yes_no, theirs), strict=True):
        if example.kind == "pope_adversarial":
            found["neither"] += a is None
            if (a is True) != (b is True):
                found[FLIPS[example.answer == "yes", a is True]] += 1
    return found


def _brief(exam: Sequence[Example], texts: Sequence[str]) -> Row:
    """The main figures of one draw, without intervals; None where captions name nothing."""
    pairs = list(zip(exam, texts, strict=True))
    right = [yes_no(text) == (e.answer == "yes") for e, text in pairs if e.kind == "pope_adversarial"]
    counts = [caption_counts(e, text) for e, text in pairs if e.kind == "caption"]
    found: Row = {"adversarial": sum(right) / len(right)}
    for name in ("chair_i", "recall", "length"):
        hits, trials = (sum(one[name][at] for one in counts) for at in (0, 1))
        found[name] = hits / trials if trials else None
    return found
