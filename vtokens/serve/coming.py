"""Requests that are on their way to the batcher: where there are none, nobody is waited for."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Coming:
    """A count of requests whose pictures and prompts are being prepared.

    Attributes:
        none: is called when there are none any more.
    """

    def __init__(self) -> None:
        self._lock, self._count = threading.Lock(), 0
        self.none: Callable[[], None] = lambda: None

    def __bool__(self) -> bool:
        return self._count > 0

    def enter(self) -> Callable[[], None]:
        """Count one more.

        Returns:
            What counts it off, from any thread, once its jobs are submitted or there will be none; called again it does
            nothing.
        """
        there = True
        with self._lock:
            self._count += 1

        def leave() -> None:
            nonlocal there
            with self._lock:
                over = there and self._count == 1
                self._count -= there
                there = False
            if over:
                self.none()

        return leave
