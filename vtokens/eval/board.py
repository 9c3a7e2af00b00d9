"""The progress bar of a sweep, with the time that is left."""

from __future__ import annotations

import sys
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Board:
    """A progress bar on stderr, in answers of this process's share.

    Args:
        done: answers there from before.
        total: answers there will be.
        show: False for no bar at all.
    """

    def __init__(self, done: int, total: int, show: bool = True) -> None:
        # The stream itself, not whatever stands in for stderr while a task runs.
        console = Console(file=sys.stderr)
        asked = TextColumn("{task.description}", markup=False)
        columns = (asked, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        left = (TextColumn("left"), TimeRemainingColumn())
        # Cells differ in speed, so the time left follows from the last hour and not from the last seconds.
        self._bar = Progress(
            *columns, *left, console=console, disable=not show, speed_estimate_period=3600, redirect_stderr=False
        )
        self._task = self._bar.add_task("", completed=done, total=total)

    def now(self, cell: str, task: str) -> None:
        """Say what is being asked."""
        self._bar.update(self._task, description=f"{cell} {task}")

    def finished(self, cell: str) -> None:
        """Note that a cell is done; where no bar can be drawn, as in a log file, a line says so."""
        if not self._bar.console.is_terminal and not self._bar.disable:
            task = self._bar.tasks[0]
            left = "" if task.time_remaining is None else f", {timedelta(seconds=round(task.time_remaining))} left"
            print(f"{cell}: {task.completed:.0f} of {task.total:.0f} answers{left}", file=self._bar.console.file)

    def answered(self, count: int) -> None:
        """Note that `count` more answers are on disk."""
        self._bar.advance(self._task, count)

    def __enter__(self) -> Board:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
