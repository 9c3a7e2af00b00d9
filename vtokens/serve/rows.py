"""One prompt of a batch while its answer is written."""

from __future__ import annotations

from typing import Any

import torch

from vtokens.serve.answering import Answering
from vtokens.serve.decoding import Decoding
from vtokens.serve.jobs import Began, Did, End, Reason, Text
from vtokens.serve.spelling import Spelling


class Row:
    """A prompt in a batch, and what has been written of its answer.

    Args:
        answering: the job, and where its events go.
        tokenizer: the model's.

    Attributes:
        length: positions of the prompt, padding left out.
        ids: the tokens written, of all runs: one that failed is run again from its beginning, and writes them again.
        at: how many of them this run has written.
        ended: the answer is over; the model may go on writing, for nobody.
    """

    def __init__(self, answering: Answering, tokenizer: Any) -> None:
        self.answering = answering
        self.length = int(answering.job.inputs["attention_mask"].sum())
        self.ids: list[int] = []
        self.at, self.ended = 0, False
        self.did: Did | None = None
        self._spelling = Spelling(tokenizer, answering.decoding.stops)
        self.generator: torch.Generator | None = None

    @property
    def decoding(self) -> Decoding:
        """How its answer is written."""
        return self.answering.decoding

    def begin(self, device: torch.device) -> None:
        """A run of the batch begins."""
        self.at = 0
        if self.decoding.samples:
            self.generator = torch.Generator(device).manual_seed(self.answering.seed)

    def forced(self) -> int | None:
        """The token that a run before this one wrote here; None where none did."""
        return self.ids[self.at] if self.at < len(self.ids) else None

    def read(self, rows: int, did: Did) -> None:
        """The prompt was read."""
        if self.did is None and not self.ended:
            self.did = did
            self.answering.tell(Began(self.answering.waited, rows, did))

    def check(self, now: float) -> bool:
        """End what nobody waits for any more; returns whether it has ended."""
        reason = self.answering.over(now)
        if reason is not None and not self.ended:
            self.end(reason)
        return self.ended

    def push(self, token: int, logprob: float | None, top: tuple[tuple[int, float], ...]) -> None:
        """Take the next token of this run."""
        again, self.at = self.at < len(self.ids), self.at + 1
        if again or self.ended:
            return
        self.ids.append(token)
        self.answering.written = len(self.ids)
        if token in self.decoding.ends:
            return self.end("stop")
        self._tell(self._spelling.push(token, logprob, top))
        if self._spelling.stopped:
            self.end("stop")
        elif len(self.ids) >= self.decoding.most:
            self.end("length")

    def end(self, reason: Reason) -> None:
        """End the answer, with what is left of its text unless nobody wants it."""
        if not self._spelling.stopped and reason != "cancelled":
            self._tell(self._spelling.flush())
            if self._spelling.stopped and reason == "length":
                reason = "stop"
        self.ended = True
        self.answering.finish(End(reason, tuple(self.ids), self.answering.age(), self.did))

    def _tell(self, text: Text | None) -> None:
        if text is not None:
            self.answering.tell(text)
