"""POPE: yes/no questions about objects that are or are not in the picture (Li et al., EMNLP 2023)."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .intervals import Interval, ratio
from .paired import bools


@dataclass(frozen=True)
class Pope:
    """POPE's figures over `n` questions; 'yes' is the positive class, and `unanswered` replies held no word at all.

    A figure is None where it is not defined: precision when nothing was answered 'yes', recall when nothing is there,
    F1 when neither.
    """

    accuracy: Interval
    precision: Interval | None
    recall: Interval | None
    f1: Interval | None
    yes_ratio: Interval
    n: int
    unanswered: int = 0


def yes_no(text: str) -> bool | None:
    """Whether an answer says yes, by the rule of POPE's evaluation script; None for an answer without a word.

    The first sentence decides: it says no if 'no' or 'not' is one of its words, and yes in every other case. POPE
    matches 'No', 'no' and 'not' between spaces; here case and punctuation do not matter. A contraction such as "isn't"
    is no 'not', as there.
    """
    for sentence in text.lower().split("."):
        words = re.findall(r"[^\W_]+", sentence)
        if words:
            return not {"no", "not"} & set(words)
    return None


def pope(
    answers: Sequence[bool | None],
    truths: Sequence[bool],
    *,
    groups: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Pope:
    """Accuracy, precision, recall, F1 and the share of 'yes'.

    Args:
        answers: whether each answer says yes (`yes_no`); None is neither yes nor no, and wrong.
        truths: whether the object is there.
        groups: one label a question, where several ask about one picture: the intervals then come from a
            bootstrap of pictures (see `bootstrap`), and from Wilson's formula otherwise.

    The interval of F1 is that of J = TP / (TP + FP + FN), a share of questions, under F1 = 2 J / (1 + J).

    Raises ValueError for no question or lists of different length, TypeError for other than bools and None.
    """
    if not len(truths) or len(answers) != len(truths):
        raise ValueError(f"need as many answers as truths and at least one, got {len(answers)} and {len(truths)}")
    missing = np.array([answer is None for answer in answers])
    yes = bools("answers", [False if answer is None else answer for answer in answers])
    there = bools("truths", truths)
    everything = np.ones(len(there), dtype=bool)

    def share(hits: Any, trials: Any) -> Interval | None:
        more: dict[str, Any] = {"groups": groups, "confidence": confidence, "resamples": resamples, "seed": seed}
        return ratio((hits & trials).astype(int), trials.astype(int), **more)

    accuracy, yes_ratio = share((yes == there) & ~missing, everything), share(yes, everything)
    assert accuracy is not None
    assert yes_ratio is not None
    f1, overlap = None, share(yes & there, yes | there)
    if overlap is not None:
        value, low, high = (2 * j / (1 + j) for j in (overlap.value, overlap.low, overlap.high))
        f1 = Interval(value, low, high, len(there))
    return Pope(accuracy, share(there, yes), share(yes, there), f1, yes_ratio, len(there), int(missing.sum()))
