"""`vtokens doctor`: which releases fit each other, which extras work, and whether results are right on this machine.

It begins where nothing else does: what may be broken is imported in other processes only.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from vtokens.doctor import child, extras, releases
from vtokens.doctor.finding import Finding

__all__ = ["Finding", "examine"]

_AT_ONCE = 2  # each process takes a core and up to a gigabyte


def examine() -> Iterator[Finding]:
    """Look at versions, extras, the device and the guarantees, in this order; each finding as soon as it is known."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        checked = pool.submit(child.run, "selfcheck")
        tried = [pool.submit(extras.examine, extra) for extra in extras.EXTRAS]
        yield from releases.examine()
        for one in tried:
            yield one.result()
        found, fault = checked.result()
        yield from (Finding(**line) for line in found)
        if fault:
            yield Finding("self-check", "the embedded model", fault, "wrong")
