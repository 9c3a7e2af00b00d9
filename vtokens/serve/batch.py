"""A batch of prompts, each under its own strategies and settings, through one call of `generate`."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessorList, PreTrainedModel, StoppingCriteriaList

from vtokens.engine import Handle
from vtokens.serve.answering import Answering
from vtokens.serve.decoding import shared_config
from vtokens.serve.jobs import Did
from vtokens.serve.join import Joiner
from vtokens.serve.rows import Row
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

    def run(self, batch: Sequence[Answering]) -> None:
        """Answer a batch. If it fails, its rows run one by one, and only those that fail alone are told.

        Args:
            batch: jobs that can run beside each other.
        """
        now = time.monotonic()
        for answering in batch:
            answering.begun = now
        rows = [Row(answering, self._tokenizer) for answering in batch]
        rows = [row for row in rows if not row.check(now)]
        failed = self._tried(rows, len(rows)) if rows else None
        if failed is None:
            return
        if len(rows) == 1:
            return rows[0].answering.fail(failed)
        _forget()
        for row in rows:
            if not row.ended and not row.check(time.monotonic()):
                error = self._tried([row], len(rows))
                if error is not None:
                    row.answering.fail(error)

    def _tried(self, rows: Sequence[Row], together: int) -> Exception | None:
        """Run rows; returns the error if there was one."""
        try:
            self._generate(rows, together)
        except Exception as error:
            return error.with_traceback(None)
        return None

    def _generate(self, rows: Sequence[Row], together: int) -> None:
        jobs, device = [row.answering.job for row in rows], self._model.device
        inputs = self._joiner.join([job.inputs for job in jobs])
        lengths = inputs["attention_mask"].sum(1).tolist()
        for row in rows:
            row.begin(device)
        choose = Choose(rows, lengths)
        before = self._handle.record

        def read() -> None:
            for row, did in zip(rows, self._did(rows, lengths, before), strict=True):
                row.read(together, did)

        watch = Watch(rows, choose, read)
        config = shared_config(rows[0].decoding.shared, max(row.decoding.most for row in rows))
        batch = {name: self._moved(value) for name, value in inputs.items()}

        def loop(model: Any, input_ids: Tensor, logits_processor: Any, stopping_criteria: Any, **rest: Any) -> Any:
            # The loop of `generate` without what the model's defaults would add for all: each row's own hold them.
            ours = {
                "logits_processor": LogitsProcessorList([choose]), "stopping_criteria": StoppingCriteriaList([watch])
            }  # fmt: skip
            return type(model)._sample(model, input_ids, **ours, **rest)

        with self._handle.using([job.program for job in jobs]):
            self._model.generate(**batch, generation_config=config, custom_generate=loop)

    def _moved(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        dtype = self._model.dtype if value.is_floating_point() else None
        return value.to(self._model.device, dtype)

    def _did(self, rows: Sequence[Row], lengths: Sequence[int], before: Any) -> list[Did]:
        """What strategies did to each row. The first tokens are on the host already: nothing waits for the device."""
        found = []
        for row, report in zip(rows, self._handle.row_reports(lengths, before), strict=True):
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
