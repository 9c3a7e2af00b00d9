"""The kinds of questions about scenes, by name."""

from __future__ import annotations

from collections.abc import Sequence

from vtokens.core.errors import unknown

from .compare import COMPARE
from .relations import HARDER
from .signs import READING
from .stories import STORIES

#: The kinds that `examples` balances over when it is not told which.
KINDS = (
    "exist",
    "where",
    "at",
    "colour_at",
    "colour_of",
    "shape_of",
    "count_all",
    "count_colour",
    "count_shape",
    "digit",
    "caption",
)
#: POPE's three settings: half yes; the negatives random, among the frequent classes, or the missing partner.
POPE = ("pope_random", "pope_popular", "pope_adversarial")
ALL_KINDS = KINDS + POPE
#: All that can be asked. New kinds go to the end: a kind's place says which stream its questions are drawn from.
EVERY_KIND = ALL_KINDS + HARDER + READING + STORIES + COMPARE


def check_kinds(
    kinds: Sequence[str], known: Sequence[str] = EVERY_KIND, usual: Sequence[str] = KINDS, what: str = "kind"
) -> None:
    """Raise ValueError with the nearest name if one of `kinds` is none of `known`, or there is none."""
    if isinstance(kinds, str):
        raise TypeError(f"kinds must be a sequence of names such as {list(usual[:2])}, not the string {kinds!r}")
    if not kinds:
        raise ValueError("kinds is empty; pass None for all of " + ", ".join(usual))
    for kind in kinds:
        if kind not in known:
            raise unknown(what, kind, known)
