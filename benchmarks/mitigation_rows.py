"""The figures of mitigations from their replies: draws pooled, paired tests adjusted over each table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from benchmarks.hallucination_rows import Row, caption_counts, make_row
from vtokens.eval.metrics import holm, mcnemar, yes_no
from vtokens.scenes import Example

FLIPS = {
    (False, True): "made up",
    (False, False): "no longer made up",
    (True, False): "lost",
    (True, True): "found",
}
"""What an adversarial answer that changed has become, by (the object is there, the answer is yes)."""


def table(
    specs: Sequence[str],
    base: str,
    cells: Mapping[str, Mapping[int, Row]],
    exams: Mapping[int, Sequence[Example]],
) -> list[Row]:
    """A row for the first of `specs`, which is `base`, and for each of the others, which is compared with it.

    cells: what was asked, by spec and draw. A row is of the draws in which it and what it is compared with have been
    asked; without any there is none. The base itself is compared with the plain model where it is another.
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
        row |= make_row(asked, ours, None if against == spec else theirs)
        row["by_draw"] = [_brief(exams[draw], mine[draw]["texts"]) for draw in draws]
        if against != spec:
            row["against"]["signs"] = signs(asked, ours, theirs)
            row["flips"] = flips(asked, ours, theirs)
        rows.append(row)
    return adjusted(rows)


def signs(asked: Sequence[Example], ours: Sequence[str], theirs: Sequence[str]) -> Row:
    """Exact sign tests over captions: `only_a` of them invent more (recall more, are longer) than `theirs`."""
    found: Row = {}
    captions = [i for i, example in enumerate(asked) if example.kind == "caption"]
    pairs = [(caption_counts(asked[i], ours[i]), caption_counts(asked[i], theirs[i])) for i in captions]
    for name in ("chair_i", "recall", "length"):
        a, b = ([pair[side][name][0] for pair in pairs] for side in (0, 1))
        more = ([x > y for x, y in zip(a, b, strict=True)], [y > x for x, y in zip(a, b, strict=True)])
        found["invented" if name == "chair_i" else name] = asdict(mcnemar(*more))
    return found


def flips(asked: Sequence[Example], ours: Sequence[str], theirs: Sequence[str]) -> dict[str, int]:
    """What became of adversarial answers that changed, and how many are neither yes nor no."""
    found = dict.fromkeys(FLIPS.values(), 0) | {"neither": 0}
    for example, a, b in zip(asked, map(yes_no, ours), map(yes_no, theirs), strict=True):
        if example.kind == "pope_adversarial":
            found["neither"] += a is None
            if (a is True) != (b is True):
                found[FLIPS[example.answer == "yes", a is True]] += 1
    return found


def adjusted(rows: list[Row]) -> list[Row]:
    """The rows with `holm` beside each p-value that the table shows, adjusted over all of them."""
    tests = []
    for row in rows:
        if "against" in row:
            tests += [test["accuracy"] for test in row["against"]["pope"].values()]
            tests += [row["against"]["pope"]["adversarial"]["says_yes"], *row["against"]["signs"].values()]
    for test, p_value in zip(tests, holm([test["p_value"] for test in tests]), strict=True):
        test["holm"] = float(f"{p_value:.6g}")
    return rows


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
