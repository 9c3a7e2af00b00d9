"""One chat: from the body of its request to the answer, whole or as it is written."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from vtokens.serve.answers import (
    AnswerMessage,
    ChatAnswer,
    ChatChunk,
    Choice,
    ChunkChoice,
    Delta,
    Logprobs,
    Usage,
    Verdict,
    VtokensAnswer,
)
from vtokens.serve.asked import ChatRequest
from vtokens.serve.filtered import Judged
from vtokens.serve.jobs import Began, Did, End, Failed, Text
from vtokens.serve.metrics import Metrics
from vtokens.serve.programs import Wish
from vtokens.serve.refusals import about, refused
from vtokens.serve.shown import Seen, told
from vtokens.serve.writing import Writer

Event = Began | Text | Judged | End | Failed
Piece = tuple[Writer, list[Delta], Logprobs | None]
"""What a choice goes on with."""


_LATE = 0.5
"""Seconds that the end of what took too long may be late."""


class Gone(Exception):
    """The client left."""


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

    async def whole(self) -> ChatAnswer:
        """The answer, once it is complete."""
        async for _ in self.pieces():
            pass
        choices = [self._choice(writer) for writer in self.writers]
        return ChatAnswer(
            id=f"chatcmpl-{self.id}",
            created=self.created,
            model=self.wish.model,
            choices=choices,
            usage=self.usage(),
            vtokens=self.told(),
        )

    async def chunks(self, first: Piece, rest: AsyncGenerator[Piece, None]) -> AsyncGenerator[ChatChunk, None]:
        """The answer in pieces: roles, texts, how each choice ended, and what was used."""
        usage = self.asked.stream_options is not None and bool(self.asked.stream_options.include_usage)
        for writer in self.writers:
            yield self._chunk(writer, Delta(role="assistant", content=""))
        piece: Piece | None = first
        while piece is not None:
            writer, deltas, likely = piece
            if likely is not None and not deltas:
                deltas = [Delta()]
            for number, delta in enumerate(deltas):
                yield self._chunk(writer, delta, likely if number == 0 else None)
            if writer.finish is not None:
                chunk = self._chunk(writer, Delta())
                chunk.choices[0].finish_reason = writer.finish
                if not usage and all(one.finish is not None for one in self.writers):
                    chunk.vtokens = self.told()
                yield chunk
            piece = await anext(rest, None)
        if usage:
            yield ChatChunk(**self._head(), choices=[], usage=self.usage(), vtokens=self.told())

    def headers(self, final: bool) -> dict[str, str]:
        """What a gateway reads; before the end only what is known then."""
        found = {"x-vtokens-strategy": header(self.wish.strategy)}
        if self.did is not None:
            found["x-vtokens-kept"] = str(self.did.kept)
        if final and self.verdict is not None:
            found["x-vtokens-flags"] = str(len(self.verdict.marks))
        return found

    def usage(self) -> Usage:
        """What was fed and generated; the prompt of several choices counts once."""
        fed = self.did.fed if self.did is not None else 0
        return Usage(prompt_tokens=fed, completion_tokens=self.tokens, total_tokens=fed + self.tokens)

    def told(self) -> VtokensAnswer:
        """What became of visual tokens."""
        assert self.did is not None
        return told(self.wish.strategy, self.did, self.seen, self.verdict)

    def _choice(self, writer: Writer) -> Choice:
        assert writer.finish is not None
        calls = [call.model_copy(update={"index": None}) for call in writer.calls]
        message = AnswerMessage(
            role="assistant",
            # Between calls there is often nothing but space.
            content=writer.content if writer.content.strip() or not calls else None,
            reasoning_content=writer.reasoning or None,
            tool_calls=calls or None,
            vtokens=self.verdict,
        )
        likely = Logprobs(content=writer.likely) if self.asked.logprobs else None
        return Choice(index=writer.index, message=message, finish_reason=writer.finish, logprobs=likely)

    def _chunk(self, writer: Writer, delta: Delta, likely: Logprobs | None = None) -> ChatChunk:
        return ChatChunk(**self._head(), choices=[ChunkChoice(index=writer.index, delta=delta, logprobs=likely)])

    def _head(self) -> dict[str, Any]:
        return {"id": f"chatcmpl-{self.id}", "created": self.created, "model": self.wish.model}

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


async def unless_gone(request: Request, work: Any) -> Any:
    """The result of `work`, which is cancelled once the client leaves; raises `Gone` then."""

    async def left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(left())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            raise Gone
        return tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def header(text: str) -> str:
    """Text as a header's value: visible ASCII, and not too long."""
    plain = text.encode("ascii", "backslashreplace").decode()
    return "".join(char if " " <= char <= "~" else " " for char in plain)[:1000]
