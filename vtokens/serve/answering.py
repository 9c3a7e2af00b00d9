"""A job that was accepted, until its last event."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable

from vtokens.serve.decoding import Decoding
from vtokens.serve.jobs import End, Event, Failed, Job, Reason

log = logging.getLogger("vtokens.serve")


class Answering:
    """A job that was accepted.

    Attributes:
        job: what is asked.
        decoding: how its answer is written.
        choices: a line for each of its strategies that was chosen for the model.
        seed: of its sampling.
        submitted, begun: moments, by `time.monotonic`; the latter None as long as it waits.
        written: tokens of the answer so far.
        drained: it is to end, as the batcher closes.
        cut: it ended for that reason.
    """

    def __init__(
        self,
        job: Job,
        decoding: Decoding,
        choices: tuple[str, ...],
        on: Callable[[Event], None],
        wake: Callable[[], None],
    ) -> None:
        self.job, self.decoding, self.choices = job, decoding, choices
        self.seed = secrets.randbits(63) if job.seed is None else job.seed
        self.submitted = time.monotonic()
        self.begun: float | None = None
        self.written = 0
        self.drained = self.cut = False
        self._on, self._cancelled, self._done = on, False, threading.Event()
        self._wake = wake

    @property
    def owner(self) -> str:
        """Whose it is."""
        return self.job.owner

    @property
    def until(self) -> float | None:
        """The moment of its deadline."""
        return None if self.job.deadline is None else self.submitted + self.job.deadline

    @property
    def waited(self) -> float:
        """Seconds that it was in the queue."""
        return (time.monotonic() if self.begun is None else self.begun) - self.submitted

    @property
    def done(self) -> bool:
        """Whether its last event was sent."""
        return self._done.is_set()

    def age(self) -> float:
        """Seconds since it was submitted."""
        return time.monotonic() - self.submitted

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for its last event; returns whether it was sent."""
        return self._done.wait(seconds)

    def cancel(self) -> None:
        """Nobody wants the answer any more: it ends within a step. Once more does no harm."""
        self._cancelled = True
        self._wake()

    def over(self, now: float) -> Reason | None:
        """Why it is to end at this moment, if it is."""
        if self._cancelled:
            return "cancelled"
        if self.until is not None and now >= self.until:
            return "deadline"
        return "drained" if self.drained else None

    def give_up(self) -> None:
        """It ends without having begun."""
        self.finish(End(self.over(time.monotonic()) or "cancelled", (), self.age()))

    def fail(self, error: Exception) -> None:
        """It ends with an error."""
        self.finish(Failed(error))

    def tell(self, event: Event) -> None:
        """Send an event; what the receiver raises ends this job, and nothing else."""
        try:
            self._on(event)
        except Exception:
            log.exception("a receiver of events failed: its request is cancelled")
            self._cancelled = True

    def finish(self, event: End | Failed) -> None:
        """Send the last event."""
        if not self.done:
            self.cut = isinstance(event, End) and event.reason == "drained"
            self.tell(event)
            self._done.set()
