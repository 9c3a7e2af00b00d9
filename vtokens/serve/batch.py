"""Batches of prompts, each under its own strategies and settings: read in few passes, written together.

Rows whose strategies have nothing left to do in a step are written by `Run`: those that are done leave, and others join
in between. The rest goes through the loop of `generate`, all of them together until the last one is done.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from vtokens.engine import Handle
from vtokens.serve.answering import Answering
from vtokens.serve.join import Joiner
from vtokens.serve.reading import Reader
from vtokens.serve.rows import Row
from vtokens.serve.run import Run


class Batches:
    """What runs batches on a model, from one thread.

    Args:
        model, processor, handle: the model, its processor, and its attachment.
        joiner: makes one batch of prompts.
    """

    def __init__(self, model: PreTrainedModel, processor: Any, handle: Handle, joiner: Joiner) -> None:
        self._model: Any = model
        self._handle = handle
        self._reader = Reader(model, handle, joiner)
        self._tokenizer = getattr(processor, "tokenizer", processor)

    def lets_join(self, answering: Answering) -> bool:
        """Whether a job may join others that are being written, as far as its strategies go."""
        return not self._reader.acts(answering.job)

    def run(self, batch: Sequence[Answering], more: Callable[[], Sequence[Answering]] = tuple) -> None:
        """Answer a batch, and what joins it.

        What fails runs again, row by row, and only those that fail alone are told.

        Args:
            batch: jobs that can run beside each other.
            more: is asked at each step for jobs that can run beside those that are left.
        """
        runs: list[Run] = []
        self._admit(runs, batch)
        while runs:
            new: Sequence[Answering] = ()
            with self._steps():
                while runs and not new:
                    for run in [*runs]:
                        self._step(runs, run)
                    new = more() if runs else ()
            if new:
                self._admit(runs, new)

    def _admit(self, runs: list[Run], batch: Sequence[Answering]) -> None:
        """Read the prompts of a batch, and let them be written with those that are."""
        now = time.monotonic()
        for answering in batch:
            answering.begun = now
        rows = [Row(answering, self._tokenizer) for answering in batch]
        rows = [row for row in rows if not row.check(now)]
        together = len(rows) + sum(len(run.live) for run in runs)
        for some in self._reader.apart(rows) if rows else ():
            self._begin(runs, some, together)

    def _begin(self, runs: list[Run], rows: Sequence[Row], together: int) -> None:
        """Read prompts in one pass, and let them be written with those that are."""
        now = time.monotonic()  # others of the batch were read before
        rows = [row for row in rows if not row.check(now)]
        try:
            run = self._reader.read(rows, together) if rows else None
        except Exception as error:
            return self._again(rows, together, error.with_traceback(None))
        if run is None or not run.live:
            return
        for other in [*runs]:
            both = [*other.live, *run.live]
            try:
                if other.join(run):
                    return
            except Exception as error:
                runs.remove(other)
                return self._again(both, together, error.with_traceback(None))
        runs.append(run)

    def _step(self, runs: list[Run], run: Run) -> None:
        rows = run.live
        try:
            run.step()
            run.leave()
        except Exception as error:
            runs.remove(run)
            return self._again(rows, len(rows), error.with_traceback(None))
        if not run.live:
            runs.remove(run)

    def _again(self, rows: Sequence[Row], together: int, failed: Exception) -> None:
        """Run rows one by one, each to its end, after they failed together."""
        if len(rows) == 1:
            return rows[0].answering.fail(failed)
        _forget()
        for row in rows:
            if not row.ended and not row.check(time.monotonic()):
                try:
                    run = self._reader.read([row], together)
                    if run is not None:
                        with self._steps():
                            while run.live:
                                run.step()
                except Exception as error:
                    row.answering.fail(error.with_traceback(None))

    @contextlib.contextmanager
    def _steps(self) -> Iterator[None]:
        """Steps of runs: no strategy has anything left to do in them."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            if self._handle.strategies:
                stack.enter_context(self._handle.running())
            if self._model.device.type != "cpu" and hasattr(self._model, "_optimize_model_for_decode"):
                stack.enter_context(self._model._optimize_model_for_decode())
            yield


def _forget() -> None:
    """Give back what a failed pass held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
