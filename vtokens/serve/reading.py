"""Prompts of a batch, each under its own strategies, read in one pass: the first token of each is written."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import LogitsProcessorList, PreTrainedModel, StoppingCriteriaList

from vtokens.engine import Handle
from vtokens.serve.decoding import shared_config
from vtokens.serve.jobs import Did, Job
from vtokens.serve.join import Joiner
from vtokens.serve.passes import Passes
from vtokens.serve.remembered import remembered
from vtokens.serve.rows import Row
from vtokens.serve.run import Run, opens
from vtokens.serve.steps import Choose, Watch
from vtokens.strategies import format_spec


class Reader:
    """What reads prompts, from one thread.

    Args:
        model, handle: the model, and its attachment.
        joiner: makes one batch of prompts.

    Attributes:
        passes: what reading costs here.
    """

    def __init__(self, model: PreTrainedModel, handle: Handle, joiner: Joiner) -> None:
        self._model: Any = model
        self._handle, self._joiner = handle, joiner
        self.passes = Passes()
        # The same objects for programs that are alike: what the engine makes of them is made once.
        self._program = remembered(lambda program: program, 256)
        self._acts = remembered(handle.acts_in_steps, 1024)

    def acts(self, job: Job) -> bool:
        """Whether strategies do something at each token that is written."""
        return self._acts(job.program)

    def apart(self, rows: Sequence[Row]) -> list[list[Row]]:
        """Divide a batch into those rows that are read in one pass."""
        jobs = [row.answering.job for row in rows]
        if any(map(self.acts, jobs)):  # written by `generate`, all of them to the end
            return [[*rows]]
        return [[rows[place] for place in places] for places in self.passes.apart(jobs)]

    def read(self, rows: Sequence[Row], together: int) -> Run | None:
        """Read prompts in one pass and write the first token of each.

        Args:
            rows: whose prompts they are.
            together: rows of the batch that they belong to.

        Returns:
            What writes on; None if all is written.
        """
        begun = time.monotonic()
        jobs, device = [row.answering.job for row in rows], self._model.device
        inputs = self._joiner.join([job.inputs for job in jobs])
        for row in rows:
            row.begin(device)
        before = self._handle.record

        def read() -> None:
            dids.extend(self._did(rows, before))
            for row, did in zip(rows, dids, strict=True):
                row.read(together, did)

        lasting = any(map(self.acts, jobs))
        config = shared_config(rows[0].decoding.shared, max(row.decoding.most for row in rows))
        batch = {name: self._moved(value) for name, value in inputs.items()}
        found: list[Run] = []
        dids: list[Did] = []

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
        run = found[0] if found else None
        if run is not None and run.splits:  # what does not join others for its tokens is not read apart either
            self.passes.took(jobs, dids, time.monotonic() - begun)
        return run

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
