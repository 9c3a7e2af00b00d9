"""Which jobs can share a batch: strategies, settings and inputs have to fit, and no batch is mostly padding."""

from __future__ import annotations

import logging
from collections.abc import Callable

from vtokens.engine import Handle
from vtokens.engine.program import same
from vtokens.serve.answering import Answering
from vtokens.serve.join import Joiner
from vtokens.serve.remembered import remembered
from vtokens.serve.waiting import Work

log = logging.getLogger("vtokens.serve")


class Beside:
    """Says of jobs whether they can.

    Args:
        handle: the model's attachment.
        joiner: makes one batch of prompts.
        lets_join: whether a job may join others that are being written, as far as its strategies go.
    """

    def __init__(self, handle: Handle, joiner: Joiner, lets_join: Callable[[Answering], bool]) -> None:
        self._joiner, self._lets_join = joiner, lets_join
        self._beside = remembered(handle.beside, 4096)

    def joins(self, running: list[Work], more: Work) -> bool:
        """Whether a job can run beside others that are being written, and only those that all may be joined are."""
        return isinstance(more, Answering) and self._lets_join(more) and self.fits(running, more)

    def fits(self, batch: list[Work], more: Work) -> bool:
        """Whether another job can run beside those of a batch."""
        try:
            return self._together([one for one in (*batch, more) if isinstance(one, Answering)], len(batch) + 1)
        except Exception:  # in the thread that all wait for: by themselves they say what is wrong with them
            log.exception("whether requests can share a batch is not known: they do not")
            return False

    def _together(self, jobs: list[Answering], count: int) -> bool:
        """Whether all of so many can share a batch, where that is known of all but the last."""
        if len(jobs) < count or any(one.decoding.shared != jobs[0].decoding.shared for one in jobs):
            return False
        lengths = [one.job.inputs["input_ids"].shape[1] + one.written for one in jobs]
        if len(jobs) * max(lengths) > 2 * sum(lengths):  # more than half of the batch would be padding
            return False
        program, others = jobs[-1].job.program, [one.job.program for one in jobs[:-1]]
        if not all(same(other, program) or self._beside(other, program) for other in others):
            return False
        return self._joiner.joins([one.job.inputs for one in jobs])


def alike(one: Work, other: Work) -> bool:
    """Whether two jobs run under the same strategies: a pruned row beside one that keeps all is padded to it."""
    return isinstance(one, Answering) and isinstance(other, Answering) and same(one.job.program, other.job.program)
