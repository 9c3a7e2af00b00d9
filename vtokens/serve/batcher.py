"""Requests of many clients through one model: small batches in which every row has strategies and settings of its own.

    with Batcher(model, processor, vtokens.attach(model, "none")) as batcher:
        job = Job(inputs, GenerationConfig(max_new_tokens=64), vtokens.parse("cls(keep=0.25)"))
        batcher.submit(job, print).wait()

One thread owns the model. Jobs wait in a queue (`waiting`, `turns`), those that can run beside each other (`beside`)
share a batch (`batch`), and each answers as it would alone.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from transformers import PreTrainedModel

from vtokens.engine import Handle
from vtokens.serve.answering import Answering
from vtokens.serve.batch import Batches
from vtokens.serve.beside import Beside, alike
from vtokens.serve.call import Call
from vtokens.serve.coming import Coming
from vtokens.serve.decoding import Decodings
from vtokens.serve.jobs import Event, Job
from vtokens.serve.join import Joiner
from vtokens.serve.remembered import remembered
from vtokens.serve.spelling import spelled
from vtokens.serve.waiting import Drained, Waiting, Work

__all__ = ["Answering", "Batcher", "Drained"]

log = logging.getLogger("vtokens.serve")
T = TypeVar("T")


class Batcher:
    """The queue in front of one model, and the thread that owns the model.

    Args:
        model: the model; nobody else may run it while the batcher does.
        processor: its processor.
        handle: its attachment (`vtokens.attach(model, "none")`); each job runs its own program in place of what is
            attached.
        most: jobs in a batch.
        wait: seconds that the oldest job waits for others at most.
        queue: jobs that may wait.
        coming: those that are on their way, counted by whoever prepares them: as long as there are none, nobody waits.
            None if nobody counts.

    Raises:
        ValueError: a number out of range.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: Any,
        handle: Handle,
        *,
        most: int = 8,
        wait: float = 0.01,
        queue: int = 64,
        coming: Coming | None = None,
    ) -> None:
        for name, value, least in (("most", most, 1), ("wait", wait, 0), ("queue", queue, 1)):
            if value < least:
                raise ValueError(f"{name}={value!r}: {least} or more is allowed")
        self._vocabulary = model.config.get_text_config().vocab_size
        self._tokenizer = getattr(processor, "tokenizer", processor)
        joiner, self._decoding = Joiner(processor), Decodings(model)
        self._batches = Batches(model, processor, handle, joiner)
        self._check = remembered(handle.check, 1024)
        self._beside = Beside(handle, joiner, self._batches.lets_join)
        self._waiting = Waiting(most, wait, queue, self._beside.fits, alike, coming)
        work = ((self._work, "vtokens-batcher"), (self._waiting.watch, "vtokens-batcher-queue"))
        self._threads = [threading.Thread(target=target, name=name, daemon=True) for target, name in work]
        for thread in self._threads:
            thread.start()

    @property
    def queued(self) -> int:
        """Jobs that wait."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Jobs in the batch that runs now."""
        return len(self._waiting.running)

    @property
    def draining(self) -> bool:
        """Whether no more work is taken."""
        return self._waiting.draining

    @property
    def pace(self) -> float | None:
        """Seconds that one job takes, by the last batches; None before the first."""
        return self._waiting.pace

    def room(self) -> None:
        """Raise `Full` or `Draining` if no job would be taken now."""
        self._waiting.room()

    def submit(self, job: Job, on: Callable[[Event], None]) -> Answering:
        """Take a job.

        Args:
            job: what is asked.
            on: gets its events (`jobs`), from the thread that owns the model: it must be quick and wait for nothing.
                What it raises cancels the job. A job that ends before it ran is told so by another thread.

        Raises:
            TypeError, ValueError: strategies that this model cannot run, settings that cannot hold for one job.
            Full: too many wait.
            Draining: no more work is taken.
        """
        self.room()  # before anything is computed for it
        if job.logprobs is not None and job.logprobs < 0:
            raise ValueError(f"logprobs={job.logprobs!r}: None, or 0 and more are allowed")
        if job.adjust is not None:
            job.adjust.check(self._vocabulary)
        choices = self._check(job.program)
        how = self._decoding(_prompt(job), job.settings)
        answering = Answering(job, how, choices, on, self._waiting.wake)
        self._waiting.add(answering)
        return answering

    def alone(self, function: Callable[[], T], owner: str = "", deadline: float | None = None) -> Future[T]:
        """Run something on the model's thread in its turn, with nothing beside it.

        Args:
            function: is called without arguments.
            owner: whose it is.
            deadline: seconds after which it is not begun any more.

        Returns:
            What it returns, or raises; `TimeoutError` past its deadline, `CancelledError` where it was cancelled or the
            batcher closed before it began.

        Raises:
            Full, Draining: as `submit`.
        """
        call = Call(function, owner, deadline)
        self._waiting.add(call)
        call.future.add_done_callback(lambda _: self._waiting.wake())
        return call.future

    def drain(self, seconds: float) -> Drained:
        """Take no more work, and wait for what was accepted; what is not done in time ends with the reason "drained".

        For what runs by itself (`alone`) and does not end, this waits a few seconds longer and no more.
        """
        return self._waiting.drain(seconds)

    def close(self) -> None:
        """End all work and the threads."""
        self.drain(0)
        self._waiting.close()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(10)

    def __enter__(self) -> Batcher:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def spelled(self, id: int) -> tuple[str, bytes]:
        """A token by itself, as text and as the bytes that it stands for."""
        return spelled(self._tokenizer, id)

    def _work(self) -> None:
        while (batch := self._waiting.next()) is not None:
            try:
                self._run(batch)
            except Exception as error:  # a fault of ours; others wait
                log.exception("a batch failed in the batcher itself")
                for work in self._waiting.running:
                    work.fail(error)
            self._waiting.over()
            del batch  # and its pictures, while nothing else comes

    def _run(self, batch: list[Work]) -> None:
        if isinstance(batch[0], Call):
            batch[0].run()
        else:
            self._batches.run([one for one in batch if isinstance(one, Answering)], self._more)

    def _more(self) -> list[Answering]:
        """What joins the batch that runs now, from which those that are done have left."""
        self._waiting.left([one for one in self._waiting.running if isinstance(one, Answering) and one.done])
        return [one for one in self._waiting.more(self._beside.joins) if isinstance(one, Answering)]


def _prompt(job: Job) -> Any:
    """The tokens of a prompt (1, N), without padding.

    Raises:
        TypeError, ValueError: no tokens, or more than one prompt.
    """
    ids, mask = job.inputs.get("input_ids"), job.inputs.get("attention_mask")
    if ids is None or mask is None:
        raise TypeError(f"a job needs input_ids and attention_mask among its inputs, got {sorted(job.inputs)}")
    if ids.dim() != 2 or len(ids) != 1 or mask.shape != ids.shape:
        raise ValueError(f"a job is one prompt, (1, N): got input_ids {tuple(ids.shape)}, mask {tuple(mask.shape)}")
    return ids[:, mask[0].bool()]
