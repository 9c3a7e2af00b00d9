"""The queue: owners take turns, and each owner's work is done in the order in which it came."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar


class Owned(Protocol):
    """Work of somebody."""

    @property
    def owner(self) -> str:
        """Whose it is."""


T = TypeVar("T", bound=Owned)


class Turns(Generic[T]):
    """Work that waits.

    A batch begins with the oldest work of the owner whose turn it is, whatever else waits: no owner waits for more than
    one batch of each other one, and no kind of work waits for another kind. The rest of the batch is what fits beside
    it, one of each owner in turn.
    """

    def __init__(self) -> None:
        self._of: OrderedDict[str, deque[T]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._of.values()))

    def __iter__(self) -> Iterator[T]:
        return (work for theirs in self._of.values() for work in theirs)

    def add(self, work: T) -> None:
        """Put work behind its owner's other work; owners that are new come behind all others."""
        self._of.setdefault(work.owner, deque()).append(work)

    def remove(self, work: T) -> None:
        """Take work out."""
        theirs = self._of[work.owner]
        theirs.remove(work)
        if not theirs:
            del self._of[work.owner]

    def batch(self, most: int, fits: Callable[[list[T], T], bool]) -> list[T]:
        """The work that would be done next, which stays in the queue; empty if there is none.

        Args:
            most: of it.
            fits: whether more work can be done together with some.
        """
        if not self._of:
            return []
        left = {owner: iter(theirs) for owner, theirs in self._of.items()}
        found = [next(next(iter(left.values())))]
        turn = deque([*left][1:] + [*left][:1])
        while turn and len(found) < most:
            owner = turn.popleft()
            more = next((work for work in left[owner] if fits(found, work)), None)
            if more is not None:
                found.append(more)
                turn.append(owner)
        return found

    def take(self, work: list[T]) -> None:
        """Take a batch out: its owners go to the end, the one whose turn it was behind those who filled it up."""
        for one in work:
            self.remove(one)
        first, *others = dict.fromkeys(one.owner for one in work)
        for owner in (*others, first):
            if owner in self._of:
                self._of.move_to_end(owner)
