"""Which feature call is under way in this thread: the tower's blocks ask, since their hooks are not told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vtokens.adapters import Adapter
from vtokens.engine.context import here
from vtokens.engine.plan import Plan
from vtokens.engine.state.tower_run import TowerRun


@contextmanager
def under(adapter: Adapter, run: TowerRun, plan: Plan) -> Iterator[None]:
    """Make `run` the one under way in this thread, under `plan`."""
    thread = here()
    before, thread.tower = thread.tower, (adapter, run, plan)
    try:
        yield
    finally:
        thread.tower = before


def running(adapter: Adapter) -> tuple[TowerRun, Plan] | None:
    """The run of this model's tower that is under way in this thread, and its plan."""
    found = here().tower
    return (found[1], found[2]) if found and found[0] is adapter else None
