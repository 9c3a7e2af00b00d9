"""How many visual tokens survive: one pure function of (token count, keep), shared by every strategy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real

from vtokens.core.errors import shorten

Keep = float | int
"""A float in (0, 1] is a share of the visual tokens, an int >= 1 is a count per image."""

_ALLOWED = "a float in (0, 1] is a share of the visual tokens, an int >= 1 is a count per image"


def check_keep(keep: object) -> Keep:
    """Return `keep` as a plain float or int.

    Raises:
        TypeError: not a real number (bools count as such).
        ValueError: zero, negative, a float above 1, NaN or infinite.
    """
    if isinstance(keep, bool) or not isinstance(keep, Real):
        raise TypeError(f"keep={shorten(keep)} is not a number: {_ALLOWED}")
    if isinstance(keep, Integral):
        if keep < 1:
            raise ValueError(f"keep={shorten(int(keep))} keeps nothing: {_ALLOWED}")
        return int(keep)
    share = float(keep)
    if math.isnan(share) or not 0.0 < share <= 1.0:
        hint = f" (did you mean keep={int(share)}?)" if share > 1 and share.is_integer() else ""
        raise ValueError(f"keep={share!r} is out of range: {_ALLOWED}{hint}")
    return share


def budget(count: int, keep: Keep) -> int:
    """The number of tokens kept out of `count`.

    A share is rounded to the nearest count, a half up: 58 of 576 at 0.1, 3 of 5 at 0.5. Of FastV's releases those that
    use Python's `round` differ in halves alone, of which it takes the even neighbour (2 of 5), and one truncates (57 of
    576). At least one token is kept of an image that has any.

    Raises:
        ValueError: `keep` is a count larger than `count`.
    """
    if count == 0:
        return 0
    if isinstance(keep, int):
        if keep > count:
            raise ValueError(
                f"keep={keep} asks for more than the {count} visual tokens there are: "
                f"an int from 1 to {count} is allowed, or a share in (0, 1]"
            )
        return keep
    return min(count, max(1, math.floor(count * keep + 0.5)))


def share_of(count: int, keep: Keep) -> float:
    """`keep` as a share of `count` tokens: as it is, or what a count is worth.

    Raises:
        ValueError: `keep` is a count larger than `count`.
    """
    return budget(count, keep) / count if isinstance(keep, int) else keep


def shares(total: int, sizes: Sequence[int]) -> list[int]:
    """Split a budget over parts of these sizes, in proportion, by largest remainders; a half goes to the earlier part.

    Args:
        total: at most the sum of `sizes`.
        sizes: tokens of each part.
    """
    whole = max(1, sum(sizes))
    found = [total * size // whole for size in sizes]
    order = sorted(range(len(sizes)), key=lambda part: (-(total * sizes[part] % whole), part))
    for part in order[: total - sum(found)]:
        found[part] += 1
    return found
