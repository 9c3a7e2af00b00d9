"""Batches of prompts, each under its own strategies and settings: read together, written together.

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
from torch import Tensor
from transformers import LogitsProcessorList, PreTrainedModel, StoppingCriteriaList

from vtokens.engine import Handle
from vtokens.serve.answering import Answering
from vtokens.serve.decoding import shared_config
from vtokens.serve.jobs import Did
from vtokens.serve.join import Joiner
from vtokens.serve.remembered import remembered
from vtokens.serve.rows import Row
from vtokens.serve.run import Run, opens
from vtokens.serve.steps import Choose, Watch
from vtokens.strategies import format_spec


class Batches:
    """What runs batches on a model, from one thread.

    Args:
        model, processor, handle: the model, its processor, and its attachment.
        joiner: makes one batch of prompts.
    """

    def __init__(self, model: PreTrainedModel, processor: Any, handle: Handle, joiner: Joiner) -> None:
        self._model: Any = model
        self._handle, self._joiner = handle, joiner
        self._tokenizer = getattr(processor, "tokenizer", processor)
        # The same objects for programs that are alike: what the engine makes of them is made once.
        self._program = remembered(lambda program: program, 256)
        self._acts = remembered(handle.acts_in_steps, 1024)

    def lets_join(self, answering: Answering) -> bool:
        """Whether a job may join others that are being written, as far as its strategies go."""
        return not self._acts(answering.job.program)

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
        try:
            run = self._read(rows, together) if rows else None
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
                    run = self._read([row], together)
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

    def _read(self, rows: Sequence[Row], together: int) -> Run | None:
        """Read prompts and write the first token of each; returns what writes on, None if all is written."""
        jobs, device = [row.answering.job for row in rows], self._model.device
        inputs = self._joiner.join([job.inputs for job in jobs])
        for row in rows:
            row.begin(device)
        before = self._handle.record

        def read() -> None:
            for row, did in zip(rows, self._did(rows, before), strict=True):
                row.read(together, did)

        lasting = any(self._acts(job.program) for job in jobs)
        config = shared_config(rows[0].decoding.shared, max(row.decoding.most for row in rows))
        batch = {name: self._moved(value) for name, value in inputs.items()}
        found: list[Run] = []

        def loop(
            model: Any, input_ids: Tensor, logits_processor: Any, stopping_criteria: Any, generation_config: Any,
            **rest: Any,
        ) -> Any:  # fmt: skip
            kept = {name: value for name, value in rest.items() if name not in ("synced_gpus", "streamer")}
            if not lasting and generation_config.prefill_chunk_size is None and opens(model, kept):
                found.append(Run(model, rows, input_ids, kept, generation_config, read))
                return input_ids
            # The loop of `generate` without what the model's defaults would add for all: each row's own hold them.
            choose = Choose(rows)
            ours = {
                "logits_processor": LogitsProcessorList([choose]),
                "stopping_criteria": StoppingCriteriaList([Watch(rows, choose, read)]),
            }
            return type(model)._sample(model, input_ids, generation_config=generation_config, **ours, **rest)

        with self._handle.using([self._program(job.program) for job in jobs]):
            self._model.generate(**batch, generation_config=config, custom_generate=loop)
        return found[0] if found else None

    def _moved(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        dtype = self._model.dtype if value.is_floating_point() else None
        return value.to(self._model.device, dtype)

    def _did(self, rows: Sequence[Row], before: Any) -> list[Did]:
        """What strategies did to each row. The first tokens are on the host already: nothing waits for the device."""
        found, reports = [], self._handle.row_reports([row.length for row in rows], before)
        for row, report in zip(rows, reports, strict=True):
            answering, sample = row.answering, report.sample
            name, tokens = format_spec(answering.job.program), sum(kept.picture.tokens for kept in sample.pictures)
            figures = (report.length, round(report.fed), tokens, round(sample.average_tokens))
            found.append(Did(name, *figures, report.flops, report.flops_full, sample.pictures, answering.choices))
        return found


def _forget() -> None:
    """Give back what a failed pass held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
