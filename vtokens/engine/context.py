"""Whose call this is: what holds for the caller's context, and which phase the caller's thread is in.

What a `with` block brings is kept in a ContextVar, so that each thread and task runs under its own; the phase of a call
is kept per thread, since a call never changes threads.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

lock = threading.RLock()
"""Held while something is put on a model or taken off."""
# A forked process has no other thread that could let go of it. Windows forks nothing, and has no such function.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)

_clock = itertools.count(1)


class Follower:
    """Something on a module of a live model that goes along when another module takes its place, until `remove()`."""

    _removed = False

    def follow(self, module: Any) -> None:
        """Go to `module`, if this is not there already."""
        with lock:
            # Another thread may have removed this since the pass began: nobody would remove it a second time.
            if not self._removed and not self._is_on(module):
                self._leave()
                self._put(module)

    def remove(self) -> None:
        """Leave the module as it was, for good."""
        with lock:
            self._removed = True
            self._leave()

    def _is_on(self, module: Any) -> bool:
        raise NotImplementedError

    def _put(self, module: Any) -> None:
        raise NotImplementedError

    def _leave(self) -> None:
        raise NotImplementedError


class Entry:
    """Something that holds for the caller inside a `with` block.

    Attributes:
        owner: the engine that it concerns; None once the block was left, in whichever order and thread.
    """

    def __init__(self, owner: Any) -> None:
        self.owner = owner


_entries: ContextVar[tuple[Entry, ...]] = ContextVar("vtokens_entries", default=())


def entries() -> tuple[Entry, ...]:
    """What holds for the caller, the innermost last."""
    # A copied context may hold entries that the context it was copied from has left.
    return tuple(entry for entry in _entries.get() if entry.owner is not None)


@contextmanager
def inside(entry: Entry) -> Iterator[None]:
    """Let an entry hold for the caller; blocks may be left in another order than they were entered."""
    _entries.set((*entries(), entry))
    try:
        yield
    finally:
        entry.owner = None
        _entries.set(entries())


class Thread:
    """What one thread is doing on each attached model.

    A phase says how far a call has come: `Outer`, `Request`, `NegativePrefill`, `Pass` or `Ended`; `hooks` has the
    table.

    Attributes:
        phases: engine -> the phase of the call under way on its model; engines without one are missing.
        tower: the feature call under way (`stages.tower_call.TowerCall`); None if there is none.
        begun: the moment of the thread's first call.
        last: the moment at which a phase began or ended last.
    """

    def __init__(self) -> None:
        self.phases: dict[Any, Any] = {}
        self.tower: Any = None
        self.begun = self.last = next(_clock)

    def phase(self, owner: Any) -> Any:
        """The phase of the call under way on an engine's model; None if there is no call."""
        return self.phases.get(owner)

    def enter(self, owner: Any, phase: Any) -> None:
        """Go to another phase; what an interrupted call left is dropped."""
        self.phases[owner] = phase
        self.last = next(_clock)

    def leave(self, owner: Any) -> None:
        """Forget the call under way."""
        if self.phases.pop(owner, None) is not None:
            self.last = next(_clock)


class _Here(threading.local):
    def __init__(self) -> None:
        self.thread = Thread()


_here = _Here()


def here() -> Thread:
    """The calling thread."""
    return _here.thread
