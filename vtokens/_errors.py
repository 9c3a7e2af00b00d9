"""Messages that name the value, what is allowed and the nearest right one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def unknown(kind: str, value: object, allowed: Iterable[str]) -> ValueError:
    """A `ValueError` for a name that is not among `allowed`, with the nearest valid one first."""
    names = sorted(allowed)
    near = difflib.get_close_matches(str(value), names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return ValueError(f"unknown {kind} {value!r}.{hint} Allowed: {', '.join(names)}")
