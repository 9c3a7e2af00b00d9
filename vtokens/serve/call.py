"""A function that runs on the model's thread in its turn."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from vtokens.serve.jobs import Reason


class Call:
    """A function that waits for its turn.

    Attributes:
        future: what becomes of it.
        submitted: when it was, by `time.monotonic`.
        drained: it is not to begin any more, as the batcher closes.
        cut: it did not for that reason.
    """

    def __init__(self, function: Callable[[], Any], owner: str, deadline: float | None) -> None:
        self._function, self.owner, self._deadline = function, owner, deadline
        self.submitted, self.drained = time.monotonic(), False
        self.cut = False
        self.future: Future[Any] = Future()

    @property
    def until(self) -> float | None:
        """The moment of its deadline."""
        return None if self._deadline is None else self.submitted + self._deadline

    def over(self, now: float) -> Reason | None:
        """Why it is not to begin any more, if it is not."""
        if self.future.cancelled():
            return "cancelled"
        if self.until is not None and now >= self.until:
            return "deadline"
        return "drained" if self.drained else None

    def give_up(self) -> None:
        """It does not begin."""
        reason = self.over(time.monotonic())
        if reason == "deadline" and self.future.set_running_or_notify_cancel():
            self.future.set_exception(TimeoutError(f"its turn did not come within {self._deadline} s"))
        else:
            self.cut = reason == "drained"
            self.future.cancel()

    def fail(self, error: Exception) -> None:
        """It ends with an error."""
        if not self.future.done():
            self.future.set_exception(error)

    def run(self) -> None:
        """Run it, unless it is over: its turn may come before the queue's watch has seen that."""
        if self.over(time.monotonic()) is not None:
            return self.give_up()
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            self.future.set_result(self._function())
        except Exception as error:
            self.future.set_exception(error)
