"""One cell's figures: POPE and CHAIR with intervals, and the paired comparison with another cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from vtokens.eval.hallucination import SETTINGS, grade, mentioned, visible
from vtokens.eval.metrics import Interval, difference, holm, mcnemar, wilson, yes_no
from vtokens.scenes import CLASSES, PAIRS, Example
from vtokens.scenes.questions import exist_question

Row = dict[str, Any]
_COUNTS = ("chair_i", "recall", "length")


def make_row(asked: Sequence[Example], replies: Sequence[str], base: Sequence[str] | None) -> Row:
    """The figures of `replies`, and `against`: how they differ from those of `base` on the same examples.

    `repeats` are mentions a caption of an object that it has named before, which CHAIR does not count as invented.
    """
    grades = grade(asked, replies)
    assert grades.chair is not None
    named = [mentioned(reply) for example, reply in zip(asked, replies, strict=True) if example.kind == "caption"]
    more = {"unread": grades.unread, "repeats": sum(len(names) - len({*names}) for names in named) / len(named)}
    row = {
        "pope": {name: _plain(asdict(figures)) for name, figures in grades.pope.items()},
        "chair": _plain({**asdict(grades.chair), **more}),
        "partners": partners(asked, replies),
    }
    return row if base is None else {**row, "against": _plain(against(asked, replies, base))}


def partners(asked: Sequence[Example], replies: Sequence[str]) -> list[Row]:
    """How often each missing partner is seen: 'yes' when asked for it, and named in captions that have its trigger."""
    found = []
    for pair in PAIRS:
        trigger, partner = CLASSES[pair.trigger], CLASSES[pair.partner]
        said, named = [], []
        for example, reply in zip(asked, replies, strict=True):
            there = visible(example)
            if partner in there or trigger not in there:
                continue
            if example.kind == "caption":
                named.append(partner in mentioned(reply))
            elif example.question == exist_question(pair.partner):
                said.append(bool(yes_no(reply)))
        shares = {
            name: asdict(wilson(sum(hits), len(hits))) if hits else None
            for name, hits in (("says_yes", said), ("names_it", named))
        }
        found.append(_plain({"partner": partner, "dose": pair.dose, **shares}))
    return found


def against(asked: Sequence[Example], ours: Sequence[str], theirs: Sequence[str]) -> Row:
    """Paired tests: McNemar's for what is right or wrong, intervals of the difference for what is counted.

    `only_a` counts what only `ours` got right (said yes to, invented nothing in), `only_b` the same of `theirs`.
    """
    found: Row = {"same_replies": sum(a == b for a, b in zip(ours, theirs, strict=True)) / len(ours), "pope": {}}
    for setting in (name for name in SETTINGS if any(e.kind == f"pope_{name}" for e in asked)):
        rows = [i for i, e in enumerate(asked) if e.kind == f"pope_{setting}"]
        truth = [asked[i].answer == "yes" for i in rows]
        a, b = ([yes_no(texts[i]) for i in rows] for texts in (ours, theirs))
        right = ([x == t for x, t in zip(said, truth, strict=True)] for said in (a, b))
        found["pope"][setting] = {
            "accuracy": asdict(mcnemar(*right)),
            "says_yes": asdict(mcnemar([x is True for x in a], [x is True for x in b])),
            "f1": _difference(_f1_counts(a, truth), _f1_counts(b, truth)),
        }
    captions = [i for i, e in enumerate(asked) if e.kind == "caption"]
    a, b = ([caption_counts(asked[i], texts[i]) for i in captions] for texts in (ours, theirs))
    clean = ([row["chair_i"][0] == 0 for row in counts] for counts in (a, b))
    found["chair"] = {"chair_s": asdict(mcnemar(*clean))}
    for name in _COUNTS:
        found["chair"][name] = _difference([row[name] for row in a], [row[name] for row in b])
    return found


def adjust_together(rows: list[Row]) -> list[Row]:
    """The rows with `holm` beside every McNemar p-value for accuracy and CHAIR_S, adjusted over all of these rows."""
    tests = [test["accuracy"] for row in rows if "against" in row for test in row["against"]["pope"].values()]
    tests += [row["against"]["chair"]["chair_s"] for row in rows if "against" in row]
    adjust(tests)
    return rows


def adjust(tests: Sequence[dict[str, Any]]) -> None:
    """Write `holm` beside the p-value of every test: adjusted for there being so many of them."""
    for test, p_value in zip(tests, holm([test["p_value"] for test in tests]), strict=True):
        test["holm"] = float(f"{p_value:.6g}")


def _f1_counts(said: Sequence[bool | None], truth: Sequence[bool]) -> list[tuple[int, int]]:
    """F1 as a share of counts: twice the true positives over positives said and positives there."""
    return [(2 * (x is True and t), (x is True) + t) for x, t in zip(said, truth, strict=True)]


def caption_counts(example: Example, caption: str) -> dict[str, tuple[int, int]]:
    """(Hits, trials) of one caption: inventions of mentions, recalled of what is there, and mentions."""
    named, there = mentioned(caption), visible(example)
    wrong = sum(name not in there for name in named)
    return {"chair_i": (wrong, len(named)), "recall": (len(there & set(named)), len(there)), "length": (len(named), 1)}


def _difference(a: list[tuple[int, int]], b: list[tuple[int, int]]) -> Row | None:
    ours, theirs = (([hits for hits, _ in counts], [trials for _, trials in counts]) for counts in (a, b))
    found: Interval | None = difference(ours, theirs)
    return None if found is None else asdict(found)


def _plain(value: Any) -> Any:
    """Six digits are enough for JSON that is to be read and compared."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return float(f"{value:.6g}") if isinstance(value, float) else value
