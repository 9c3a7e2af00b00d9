"""Which right names a wrong one may stand for: the one rule behind every "Did you mean"."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

_LONGEST = 200
"""Characters of what was given that are compared: nothing this long is a misspelt name."""
_LEAST = 3
"""Letters that one name has, at least, where another goes on after it."""


def near_names(value: str, names: Iterable[str], most: int = 1) -> list[str]:
    """The names that may have been meant, the nearest first; none where none is near.

    Case does not count, nor whether words are parted by "-", "_", "." or a space. A name is near in one of three ways:

    - It is at most `allowed_typos` away: letters left out, added, changed, or changed with the next one.
    - One of the two begins with the other, which has three letters and is a third of it, or ends where a word ends.
    - What was given, of four letters or more, is one or more of its whole words.

    Args:
        value: what was given.
        names: the right ones.
        most: how many are given back. Of equally near ones those late in the alphabet come first ("float32").
    """
    given = _words(value[:_LONGEST])
    ranked = [(rank, name) for name in sorted({*names}, reverse=True) if (rank := _rank(given, _words(name)))]
    return [name for _, name in sorted(ranked, key=lambda one: one[0])][:most]


def allowed_typos(length: int) -> int:
    """How many typos apart two names may be, the longer of which has so many letters and digits."""
    return (length > 2) + (length > 4) + (length > 9)


def typos(one: str, other: str, most: int) -> int:
    """The least number of letters to leave out, add, change, or change with the next one, to get from one to the other.

    Known as the optimal string alignment distance; `most` + 1 where it is larger than `most`.
    """
    if abs(len(one) - len(other)) > most or _unshared(one, other) > most:
        return most + 1
    before: Sequence[int] = ()
    row: Sequence[int] = range(len(other) + 1)
    for i, a in enumerate(one):
        after = [i + 1]
        for j, b in enumerate(other):
            cost = min(row[j + 1] + 1, after[j] + 1, row[j] + (a != b))
            if i and j and (a, one[i - 1]) == (other[j - 1], b):
                cost = min(cost, before[j - 1] + 1)
            after.append(cost)
        if min(after) > most:
            return most + 1
        before, row = row, after
    return min(row[-1], most + 1)


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[-_. ]+", name.lower()) if word]


def _unshared(one: str, other: str) -> int:
    """How many letters only one of them has: there are at least so many typos, and counting is quicker than `typos`."""
    mine, theirs = Counter(one), Counter(other)
    return max((mine - theirs).total(), (theirs - mine).total())


def _rank(given: list[str], known: list[str]) -> tuple[float, int] | None:
    """What orders near names: the kind of nearness, or the typos, and how different the lengths are."""
    one, other = "".join(given), "".join(known)
    short, long = sorted((one, other), key=len)
    apart = len(long) - len(short)
    most = allowed_typos(len(long))
    found = typos(one, other, most)
    if found <= most:
        return float(found), apart
    if long.startswith(short) and len(short) >= _LEAST:
        words = known if long == other else given
        ends = {len("".join(words[:count])) for count in range(1, len(words))}
        if 3 * len(short) >= len(long) or len(short) in ends:
            return 1.5, apart
    spans = (known[at : at + len(given)] for at in range(len(known)))
    if len(one) > _LEAST and any(span == given for span in spans):
        return 2.5, apart
    return None
