"""Requests of many clients through one model: small batches in which every row has strategies and settings of its own.

    with Batcher(model, processor, vtokens.attach(model, "none")) as batcher:
        job = Job(inputs, GenerationConfig(max_new_tokens=64), vtokens.parse("cls(keep=0.25)"))
        batcher.submit(job, print).wait()

One thread owns the model. Jobs wait in a queue (`turns`), those that can run beside each other share a pass, and each
answers as it would alone.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from transformers import PreTrainedModel

from vtokens.engine import Handle
from vtokens.serve.answering import Answering
from vtokens.serve.batch import Batches
from vtokens.serve.call import Call
from vtokens.serve.decoding import decoding
from vtokens.serve.jobs import Draining, Event, Full, Job
from vtokens.serve.join import Joiner
from vtokens.serve.spelling import spelled
from vtokens.serve.turns import Turns
from vtokens.strategies import Strategy

log = logging.getLogger("vtokens.serve")
Program = tuple[Strategy, ...]


@dataclass(frozen=True)
class Drained:
    """What became of the work that was there when draining began.

    Attributes:
        seconds: that it took.
        finished: how much came to its own end.
        cut: how much was ended.
    """

    seconds: float
    finished: int
    cut: int


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
    ) -> None:
        for name, value, least in (("most", most, 1), ("wait", wait, 0), ("queue", queue, 1)):
            if value < least:
                raise ValueError(f"{name}={value!r}: {least} or more is allowed")
        self._model, self._tokenizer = model, getattr(processor, "tokenizer", processor)
        self._most, self._wait, self._bound = most, wait, queue
        self._joiner = Joiner(processor)
        self._batches = Batches(model, processor, handle, self._joiner)
        self._check = lru_cache(maxsize=1024)(handle.check)
        self._beside = lru_cache(maxsize=4096)(handle.beside)
        self._turns: Turns[Answering | Call] = Turns()
        self._changed = threading.Condition()
        self._running: list[Answering | Call] = []
        self._closed = self.draining = False
        self._finished = self._cut = 0
        self.pace: float | None = None
        self._thread = threading.Thread(target=self._work, name="vtokens-batcher", daemon=True)
        self._thread.start()

    @property
    def queued(self) -> int:
        """Jobs that wait."""
        with self._changed:
            return len(self._turns)

    @property
    def running(self) -> int:
        """Jobs in the batch that runs now."""
        return len(self._running)

    def submit(self, job: Job, on: Callable[[Event], None]) -> Answering:
        """Take a job.

        Args:
            job: what is asked.
            on: gets its events (`jobs`), from the thread that owns the model: it must be quick and wait for nothing.
                What it raises cancels the job.

        Raises:
            TypeError, ValueError: strategies that this model cannot run, settings that cannot hold for one job.
            Full: too many wait.
            Draining: no more work is taken.
        """
        self._room()  # before anything is computed for it
        if job.logprobs is not None and job.logprobs < 0:
            raise ValueError(f"logprobs={job.logprobs!r}: None, or 0 and more are allowed")
        choices = self._check(job.program)
        answering = Answering(job, decoding(self._model, _prompt(job), job.settings), choices, on, self._wake)
        self._add(answering)
        return answering

    def alone(self, function: Callable[[], Any], owner: str = "", deadline: float | None = None) -> Future[Any]:
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
        self._add(call)
        call.future.add_done_callback(lambda _: self._wake())
        return call.future

    def drain(self, seconds: float) -> Drained:
        """Take no more work, and wait for what was accepted; what is not done in time ends with the reason "drained".

        Of what runs by itself (`alone`) and does not end, this waits no longer than a few seconds more.
        """
        begun = time.monotonic()
        with self._changed:
            self.draining = True
            before = (self._finished, self._cut)
            self._changed.notify_all()
            idle = self._changed.wait_for(self._idle, seconds)
            if not idle:
                for work in (*self._turns, *self._running):
                    work.drained = True
                self._changed.notify_all()
                self._changed.wait_for(self._idle, 5.0)
            left = len(self._turns) + len(self._running)
        return Drained(time.monotonic() - begun, self._finished - before[0], self._cut - before[1] + left)

    def close(self) -> None:
        """End all work and the thread."""
        self.drain(0)
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join(10)

    def __enter__(self) -> Batcher:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def spelled(self, id: int) -> tuple[str, bytes]:
        """A token by itself, as text and as the bytes that it stands for."""
        return spelled(self._tokenizer, id)

    def _idle(self) -> bool:
        return not self._turns and not self._running

    def _room(self) -> None:
        with self._changed:
            if self.draining:
                raise Draining
            if (queued := len(self._turns)) >= self._bound:
                raise Full(queued, (1.0 if self.pace is None else self.pace) * queued)

    def _add(self, work: Answering | Call) -> None:
        with self._changed:
            self._room()
            self._turns.add(work)
            self._changed.notify_all()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    # What follows runs on the model's thread.

    def _work(self) -> None:
        while (batch := self._next()) is not None:
            begun = time.monotonic()
            try:
                self._run(batch)
            except Exception:  # whatever it is, others wait
                log.exception("a batch failed in the batcher itself")
            with self._changed:
                self._running = []
                self._count(batch)
                self._changed.notify_all()
            took = (time.monotonic() - begun) / len(batch)
            self.pace = took if self.pace is None else 0.8 * self.pace + 0.2 * took

    def _run(self, batch: list[Answering | Call]) -> None:
        if isinstance(batch[0], Call):
            batch[0].run()
        else:
            self._batches.run([one for one in batch if isinstance(one, Answering)], self._sweep)

    def _next(self) -> list[Answering | Call] | None:
        """Wait for work and take a batch of it; None once closed."""
        while True:
            self._sweep()
            with self._changed:
                batch = self._turns.batch(self._most, self._fits)
                if not batch:
                    if self._closed:
                        return None
                    self._changed.wait()
                    continue
                left = min(one.submitted for one in batch) + self._wait - time.monotonic()
                if len(batch) >= self._most or left <= 0 or self.draining or isinstance(batch[0], Call):
                    self._turns.take(batch)
                    self._running = batch
                    return batch
                self._changed.wait(left)

    def _fits(self, batch: list[Answering | Call], more: Answering | Call) -> bool:
        """Whether another job can run beside those of a batch."""
        if not isinstance(more, Answering):
            return False
        jobs = [one for one in batch if isinstance(one, Answering)]
        if len(jobs) < len(batch) or jobs[0].decoding.shared != more.decoding.shared:
            return False
        programs = {one.job.program for one in jobs} - {more.job.program}
        return all(self._beside(program, more.job.program) for program in programs) and self._joiner.joins(
            [one.job.inputs for one in (*jobs, more)]
        )

    def _sweep(self) -> None:
        """End what waits and is over: cancelled, past its deadline, or cut."""
        now = time.monotonic()
        with self._changed:
            over = [work for work in self._turns if work.over(now) is not None]
            for work in over:
                self._turns.remove(work)
            self._count(over)
            if over:
                self._changed.notify_all()
        for work in over:
            work.give_up(now)

    def _count(self, work: list[Answering | Call]) -> None:
        cut = sum(one.drained for one in work)
        self._cut += cut
        self._finished += len(work) - cut


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
