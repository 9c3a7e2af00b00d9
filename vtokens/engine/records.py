"""What passes are noted in, so that each thread is told of its own."""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from vtokens.engine.call import Call, Record

clock = itertools.count(1)
"""Numbers of moments."""


class Thread:
    """The passes of one thread, by engine. A pass never changes threads.

    Attributes:
        calls: the pass under way.
        ended: the pass that ended, until its logits are made.
        begun: the moment of its first pass.
        last: the moment at which a pass began or ended last.
    """

    def __init__(self) -> None:
        self.calls: dict[Any, Call] = {}
        self.ended: dict[Any, Call] = {}
        self.begun = self.last = next(clock)


class _Here(threading.local):
    def __init__(self) -> None:
        self.thread = Thread()


_here = _Here()


def here() -> Thread:
    """The calling thread."""
    return _here.thread


class Records:
    """The last pass with pictures that each thread ran under an attachment."""

    def __init__(self) -> None:
        self._of: WeakKeyDictionary[Thread, Record] = WeakKeyDictionary()
        self._latest: tuple[int, Record] | None = None

    def __reduce__(self) -> tuple[type[Records], tuple[()]]:
        return Records, ()  # a copy has run no pass yet

    def note(self, record: Record) -> None:
        """Take a pass of the calling thread."""
        self._of[here()] = record
        self._latest = (here().begun, record)

    def mine(self) -> Record | None:
        """The calling thread's last pass, or a later one of a thread whose first came after it; None if there is none.

        So that who generates in a thread started for it, as for a streamer, is told of that, and threads that work
        beside each other are not told of each other.
        """
        own, latest = self._of.get(here()), self._latest
        if latest is None:
            return None
        return latest[1] if own is None or latest[0] > here().last else own
