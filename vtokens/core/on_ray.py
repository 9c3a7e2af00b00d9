"""Ray, as a call that is spread over machines borrows it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vtokens.core.extras import needs


def imported(what: str) -> Any:
    """Ray with its data part; what needs it is the subject of the message of `MissingExtra`."""
    with needs("ray", what):
        import ray
        import ray.data
    return ray


@contextmanager
def cluster(ray: Any, address: str) -> Iterator[None]:
    """A block with a cluster, left as it was found; what fails in it is one line.

    Args:
        ray: what `imported` returned.
        address: "local" for a cluster of this machine alone, "auto" for the one it belongs to, or where the head is.

    Raises:
        ConnectionError: no cluster at the address.
        RuntimeError: a worker failed.
    """
    started, log = not ray.is_initialized(), logging.getLogger("ray.data")
    if started:
        ray.init(address=None if address == "local" else address, log_to_driver=False, logging_level="error")
    context = ray.data.DataContext.get_current()
    bars, level = context.enable_progress_bars, log.level
    context.enable_progress_bars = False
    log.setLevel(logging.ERROR)
    try:
        yield
    except ray.exceptions.RayError as error:
        # The text is a traceback that crossed machines; its last line is the error.
        raise RuntimeError(f"a worker failed: {str(error).strip().splitlines()[-1]}") from error
    finally:
        context.enable_progress_bars = bars
        log.setLevel(level)
        if started:
            ray.shutdown()
