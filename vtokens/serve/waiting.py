"""Work that waits for the model, from the moment it is accepted until it is over."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from vtokens.serve.answering import Answering
from vtokens.serve.call import Call
from vtokens.serve.coming import Coming
from vtokens.serve.jobs import Draining, Full
from vtokens.serve.turns import Turns

Work = Answering | Call
GRACE = 5.0
"""Seconds that draining waits for work which it has told to end."""


@dataclass(frozen=True)
class Drained:
    """What became of the work that was there when draining began.

    Attributes:
        seconds: that it took.
        finished: how much came to its own end.
        cut: how much was ended.
    """

    seconds: float
    finished: int
    cut: int


class Waiting:
    """The queue of one model, and what of it runs now.

    Args:
        most: work in a batch.
        wait: seconds that the oldest of a batch waits for others at most.
        bound: work that may wait.
        fits: whether more work can run beside some.
        alike: whether two run under the same strategies.
        coming: work that is on its way, if anybody says so: where there is none, nobody is waited for.

    Attributes:
        running: what runs now.
        draining: no more work is taken.
        pace: seconds that one job takes, by the last batches; None before the first.
    """

    def __init__(
        self,
        most: int,
        wait: float,
        bound: int,
        fits: Callable[[list[Work], Work], bool],
        alike: Callable[[Work, Work], bool],
        coming: Coming | None = None,
    ) -> None:
        self._most, self._wait, self._bound, self._fits, self._alike = most, wait, bound, fits, alike
        self._coming = coming
        if coming is not None:
            coming.none = self.wake
        self._turns: Turns[Work] = Turns()
        self._changed = threading.Condition()
        self._closed, self._finished, self._cut = False, 0, 0
        self._since = 0.0  # when the batch began, or the last of it left
        self.running: list[Work] = []
        self.draining = False
        self.pace: float | None = None

    def __len__(self) -> int:
        with self._changed:
            return len(self._turns)

    def room(self) -> None:
        """Raise `Full` or `Draining` if no work would be taken now."""
        with self._changed:
            if self.draining:
                raise Draining
            if (queued := len(self._turns)) >= self._bound:
                raise Full(queued, (1.0 if self.pace is None else self.pace) * queued)

    def add(self, work: Work) -> None:
        """Accept work, or raise as `room`."""
        with self._changed:
            self.room()
            self._turns.add(work)
            self._changed.notify_all()

    def wake(self) -> None:
        """Something about the work has changed."""
        with self._changed:
            self._changed.notify_all()

    def next(self) -> list[Work] | None:
        """Wait for work and take a batch of it; None once closed."""
        with self._changed:
            while True:
                batch = self._turns.batch(self._most, self._fits, self._alike)
                if not batch:
                    if self._closed:
                        return None
                    self._changed.wait()
                    continue
                left = self._worth(batch, self._most)
                if left <= 0:
                    self._turns.take(batch)
                    self.running, self._since = batch, time.monotonic()
                    return batch
                self._changed.wait(left)

    def more(self, joins: Callable[[list[Work], Work], bool]) -> list[Work]:
        """Take work that joins what runs now, as long as that has room; nothing is waited for.

        If what would be next cannot join, nothing does: what runs comes to its end, and its turn has come.

        Args:
            joins: whether work can run beside some.
        """
        if not self._turns or not self.running:  # asked at every step; what comes now is seen at the next one
            return []
        with self._changed:
            room = self._most - len(self.running)
            batch = self._turns.batch(room, joins, self._alike, self.running) if room > 0 else []
            if not batch or self._worth(batch, room) > 0:
                return []
            self._turns.take(batch)
            self.running = [*self.running, *batch]
            return batch

    def left(self, work: list[Work]) -> None:
        """Some of what runs is done."""
        if not work:
            return
        now = time.monotonic()
        one, self._since = (now - self._since) / len(work), now
        self.pace = one if self.pace is None else 0.8 * self.pace + 0.2 * one
        with self._changed:
            self.running = [other for other in self.running if other not in work]
            self._count(work)

    def over(self) -> None:
        """All that runs is done."""
        self.left(self.running)

    def _worth(self, batch: list[Work], most: int) -> float:
        """Seconds for which others are worth waiting for before a batch of at most so many begins."""
        if len(batch) >= most or self.draining or isinstance(batch[0], Call):
            return 0.0
        if self._coming is not None and not self._coming:
            return 0.0
        return min(one.submitted for one in batch) + self._wait - time.monotonic()

    def watch(self) -> None:
        """End what waits and is over: cancelled, past its deadline, or cut. Returns once closed."""
        while True:
            with self._changed:
                while not (over := [work for work in self._turns if work.over(time.monotonic()) is not None]):
                    if self._closed:
                        return
                    until = min((work.until for work in self._turns if work.until is not None), default=None)
                    self._changed.wait(None if until is None else max(0.0, until - time.monotonic()))
                for work in over:
                    self._turns.remove(work)
            for work in over:
                work.give_up()
            with self._changed:
                self._count(over)

    def drain(self, seconds: float) -> Drained:
        """As `Batcher.drain`."""
        begun = time.monotonic()
        with self._changed:
            self.draining = True
            finished, cut = self._finished, self._cut
            self._changed.notify_all()
            if not self._changed.wait_for(self._idle, seconds):
                for work in (*self._turns, *self.running):
                    work.drained = True
                self._changed.notify_all()
                self._changed.wait_for(self._idle, GRACE)
            left = len(self._turns) + len(self.running)
            return Drained(time.monotonic() - begun, self._finished - finished, self._cut - cut + left)

    def close(self) -> None:
        """Let `next` and `watch` return."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _idle(self) -> bool:
        return not self._turns and not self.running

    def _count(self, work: list[Work]) -> None:
        cut = sum(one.cut for one in work)
        self._cut += cut
        self._finished += len(work) - cut
        self._changed.notify_all()
