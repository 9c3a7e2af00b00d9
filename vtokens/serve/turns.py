"""The queue: owners take turns, and each owner's work is done in the order in which it came."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
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
    it, one of each owner in turn: first what is alike, then what is not.
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

    def batch(
        self,
        most: int,
        fits: Callable[[list[T], T], bool],
        alike: Callable[[T, T], bool],
        beside: Sequence[T] = (),
    ) -> list[T]:
        """The work that would be done next, which stays in the queue; empty if there is none.

        Args:
            most: of it.
            fits: whether more work can be done together with some.
            alike: whether two take the same: each costs what the dearest of a batch does.
            beside: work that is being done, and is to be done together with it.
        """
        if not self._of:
            return []
        owners = [*self._of]
        first = self._of[owners[0]][0]
        if beside and not fits([*beside], first):
            return []
        found = [first]
        for same in (True, False):
            left = {owner: (one for one in self._of[owner] if one is not first) for owner in owners}
            turn = deque(owners[1:] + owners[:1])
            while turn and len(found) < most:
                owner = turn.popleft()
                some = [*beside, *found]
                more = next((one for one in left[owner] if alike(first, one) is same and fits(some, one)), None)
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
