"""Which prompts of a batch are read in one pass: not those of unlike width, where padding would cost more than a pass.

A pass takes every row as wide as its widest, so that a pruned prompt beside one that keeps all is paid for as if
nothing had been dropped. Prompts that are read apart are joined for the tokens that they write (`run`), where padding
is only keys that nobody attends to.

    rows     width      one pass of 4 * 600 positions, or two of 2 * 600 and 2 * 150
    none     600
    cls      150        seconds = pass + row * rows + position * rows * width
    none     600
    cls      150

What a pass, a row (its pictures) and a position cost is learnt from the passes of this model on this machine, and how
wide a strategy leaves a prompt from the last that it ran on.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vtokens.serve.jobs import Did, Job
from vtokens.serve.join import BY_POSITION
from vtokens.strategies import format_spec

_FORGETS = 0.95
"""What a pass counts for, once another came: twenty or so are looked at."""
_ENOUGH = 4
"""Passes before anything is read apart."""
_GAIN = 0.95
"""Of the time that one pass would take: what is saved is worth more than the errors of what was learnt."""
_KNOWN = 1024


class Passes:
    """What passes cost here, and batches divided by it."""

    def __init__(self) -> None:
        self._products, self._sums, self._count = np.zeros((3, 3)), np.zeros(3), 0
        self._shares: dict[tuple[str, bool], float] = {}

    def took(self, jobs: Sequence[Job], dids: Sequence[Did], seconds: float) -> None:
        """Learn of a pass.

        Args:
            jobs: whose prompts it read.
            dids: what strategies did to them.
            seconds: that it took, from prompts to their first tokens.
        """
        if len(self._shares) > _KNOWN:
            self._shares.clear()
        for job, did in zip(jobs, dids, strict=True):
            self._shares[_kind(job)] = did.fed / did.prompt_tokens
        # Errors count by their share of the seconds: a long pass says little of what a pass costs by itself.
        row = np.array([1.0, len(jobs), len(jobs) * max(did.fed for did in dids)]) / max(seconds, 1e-6)
        self._products = _FORGETS * self._products + np.outer(row, row)
        self._sums, self._count = _FORGETS * self._sums + row, self._count + 1

    def width(self, job: Job) -> float:
        """Positions that a decoder layer will see of a prompt, on average: all of it where that is not known."""
        return self._shares.get(_kind(job), 1.0) * job.inputs["input_ids"].shape[1]

    def apart(self, jobs: Sequence[Job]) -> list[list[int]]:
        """Divide a batch into passes.

        Returns:
            The places of the jobs of each pass, in the order of the batch; passes in the order of their first ones.
        """
        whole = [[*range(len(jobs))]]
        if self._count < _ENOUGH or len(jobs) == 1:
            return whole
        widths = [self.width(job) for job in jobs]
        one, row, position = self.costs()
        order = sorted(whole[0], key=lambda place: -widths[place])
        # Rows of one pass are neighbours by width. best[n]: seconds of the n widest, and where their last pass begins.
        best: list[tuple[float, int]] = [(0.0, 0)]
        for end in range(1, len(order) + 1):
            best.append(
                min(
                    (best[start][0] + one + position * (end - start) * widths[order[start]], start)
                    for start in range(end)
                )
            )
        rows = row * len(jobs)
        together = one + position * len(jobs) * widths[order[0]]
        if best[-1][0] + rows > _GAIN * (together + rows):
            return whole
        found, end = [], len(order)
        while end:
            start = best[end][1]
            found.append(sorted(order[start:end]))
            end = start
        return sorted(found)

    def costs(self) -> tuple[float, float, float]:
        """Seconds of a pass, of each row in it, and of each position of a row; none is negative."""
        scale = np.sqrt(np.maximum(self._products.diagonal(), 1e-12))
        used, found = [0, 1, 2], np.zeros(3)
        while used:
            products = (self._products / np.outer(scale, scale))[np.ix_(used, used)]
            # What passes that were all alike do not tell apart is shared out evenly.
            solved = np.linalg.solve(products + 1e-3 * np.eye(len(used)), (self._sums / scale)[used])
            if (solved >= 0).all():
                found[used] = solved / scale[used]
                break
            used.pop(int(solved.argmin()))
        return float(found[0]), float(found[1]), float(found[2])


def _kind(job: Job) -> tuple[str, bool]:
    """What decides how much of a prompt is left: the strategies, and whether there are pictures."""
    return format_spec(job.program), bool({*job.inputs} - {*BY_POSITION})
