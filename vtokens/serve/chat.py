"""One chat while its answers are written: what comes of each of its choices (`sent` has the form of it)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from vtokens.serve.answers import Delta, Logprobs, Verdict
from vtokens.serve.asked import ChatRequest
from vtokens.serve.filtered import Judged
from vtokens.serve.jobs import Began, Did, End, Failed, Text
from vtokens.serve.metrics import Metrics
from vtokens.serve.programs import Wish
from vtokens.serve.refusals import about, refused
from vtokens.serve.shown import Seen
from vtokens.serve.writing import Writer

Event = Began | Text | Judged | End | Failed
Piece = tuple[Writer, list[Delta], Logprobs | None]
"""What a choice goes on with."""
_LATE = 0.5
"""Seconds that the end of what took too long may be late."""


@dataclass
class Talk:
    """A request whose answers are on their way.

    Attributes:
        asked, wish: the request, and what it runs.
        id: of the request.
        began: when it came in.
        writers: of its choices.
        seen: what the model is given of each picture, where the request asks which tokens were kept.
        metrics: of the server.
        seconds: that it may take.
        did: what strategies did, once that is known.
        verdict: of the filter.
        tokens: generated for all choices.
        loop, events: where events of all choices arrive, each with the number of its choice.
    """

    asked: ChatRequest
    wish: Wish
    id: str
    began: float
    writers: Sequence[Writer]
    seen: Seen | None
    metrics: Metrics
    seconds: float
    did: Did | None = None
    verdict: Verdict | None = None
    tokens: int = 0

    def __post_init__(self) -> None:
        self.created = int(time.time())
        self.loop = asyncio.get_running_loop()
        self.events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self._first, self._left = True, False
        self._cancels: list[Callable[[], Any]] = []

    def until(self, cancel: Callable[[], Any]) -> None:
        """Say what ends a choice; it is called at once where the client has left already."""
        self._cancels.append(cancel)
        if self._left:
            cancel()

    def cancel(self) -> None:
        """End what is not over."""
        self._left = True
        for cancel in [*self._cancels]:
            cancel()

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """What is written, as it is; the last piece of a choice comes when its `finish` is set. Then all is over.

        Raises:
            Refused: the model refused, or the answer was cut.
        """
        left = len(self.writers)
        # The batcher ends in time what it can; it cannot while something else holds the model.
        last = self.loop.time() + self.seconds + _LATE
        while left:
            try:
                async with asyncio.timeout_at(last):
                    number, event = await self.events.get()
            except TimeoutError as error:
                raise refused(error) from None
            writer = self.writers[number]
            if isinstance(event, Began):
                self.did = self.did or event.did
                self.metrics.queue.observe(event.waited)
                self.metrics.batch.observe(event.rows)
                yield writer, writer.begin(), None
            elif isinstance(event, Text):
                if self._first:
                    self._first = False
                    self.metrics.first.observe(time.monotonic() - self.began)
                yield writer, *writer.feed(event)
            elif isinstance(event, Judged):
                self.verdict = event.verdict
            elif isinstance(event, Failed):
                raise about(refused(event.error), self.asked, self.wish)
            else:
                deltas, left = writer.end(event), left - 1
                self.tokens += event.tokens
                self.did = self.did or event.did
                if not left:
                    self._count()
                yield writer, deltas, None

    def _count(self) -> None:
        assert self.did is not None
        label, metrics = self.wish.label, self.metrics
        for writer in self.writers:
            metrics.answers.labels(label, writer.finish).inc()
        metrics.seen.labels(label).inc(self.did.image_tokens)
        metrics.kept.labels(label).inc(self.did.kept)
        metrics.prompt.inc(self.did.fed)
        metrics.completion.inc(self.tokens)
        if self.verdict is not None:
            metrics.flags.labels(self.verdict.action).inc(len(self.verdict.marks))
