"""Where requests come in: a chat is read, checked, opened and submitted, and its answer sent while the client stays."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, suppress
from functools import partial
from typing import Any

from PIL import Image
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from vtokens.loading.media import Medium
from vtokens.serve.answers import ErrorAnswer
from vtokens.serve.asked import ChatRequest
from vtokens.serve.bodies import read_json
from vtokens.serve.chat import Event, Gone, Talk, unless_gone
from vtokens.serve.checked import read_request, wrong
from vtokens.serve.filtered import Filtering, options
from vtokens.serve.jobs import Job
from vtokens.serve.limits import Limits, check_chat, check_prompt
from vtokens.serve.model import Served
from vtokens.serve.programs import Wish
from vtokens.serve.refusals import refused
from vtokens.serve.shown import seen_shares
from vtokens.serve.tongue import Tongue
from vtokens.serve.writing import Writer, shutting_down, too_slow


class Desk:
    """Answers chats.

    Args:
        served: the model, and what requests need.
        tongue: speaks to it.
    """

    def __init__(self, served: Served, tongue: Tongue) -> None:
        self._served, self._tongue = served, tongue

    async def answer(self, request: Request) -> Response:
        """Answer a chat.

        Raises:
            Refused: what is wrong with the request, or why it is not answered now.
        """
        leave = self._served.coming.enter()
        try:
            return await self._answered(request, leave)
        finally:
            leave()

    async def _answered(self, request: Request, leave: Callable[[], None]) -> Response:
        served = self._served
        if served.batcher.draining:
            raise shutting_down()
        body = await served.media.run(read_json, await request.body(), served.limits)
        check_chat(body, served.limits)
        asked = read_request(body)
        wish = served.programs.wish(asked)
        self._check(asked, wish)
        talk: Talk | None = None
        try:
            talk = await unless_gone(request, self._begin(request, asked, wish, leave))
            assert talk is not None
            if not asked.stream:
                answer = await unless_gone(request, talk.whole())
                _note(request, talk)
                return JSONResponse(answer.model_dump(exclude_none=True), headers=talk.headers(final=True))
            pieces = talk.pieces()
            first = await unless_gone(request, anext(pieces))
        except BaseException as error:
            if talk is not None:
                talk.cancel()
            if isinstance(error, Gone):
                return Response(status_code=499)
            raise
        events = self._events(request, talk, first, pieces)
        return StreamingResponse(events, headers=talk.headers(final=False), media_type="text/event-stream")

    async def _events(self, request: Request, talk: Talk, first: Any, pieces: Any) -> AsyncIterator[str]:
        try:
            async with aclosing(talk.chunks(first, pieces)) as chunks:
                async for chunk in chunks:
                    yield self._tongue.event(chunk)
            yield "data: [DONE]\n\n"
            _note(request, talk)
        except Exception as error:
            told = refused(error)
            talk.metrics.refusals.labels(told.code).inc()
            yield self._tongue.event(ErrorAnswer.model_validate(told.body()))
        finally:
            talk.cancel()

    def _check(self, asked: ChatRequest, wish: Wish) -> None:
        self._tongue.check(asked)
        if asked.tools and asked.tool_choice != "none" and not self._tongue.calls:
            message = "this model's chat template knows no tools, or nobody knows how it writes their calls"
            raise wrong(message, "tools", "unsupported_by_model")
        filtered = {
            "tools": asked.tools, "logprobs": asked.logprobs, "stop": asked.stop, "n": (asked.n or 1) > 1,
            "logit_bias": asked.adjust and asked.logit_bias, "frequency_penalty": asked.frequency_penalty,
            "presence_penalty": asked.presence_penalty,
        }  # fmt: skip
        judged = wish.filter is not None and _shows(asked)
        for name in (name for name, there in filtered.items() if there and judged):
            raise wrong(f"{name} is not possible beside the filter, which judges one whole answer", name)

    async def _begin(self, request: Request, asked: ChatRequest, wish: Wish, leave: Callable[[], None]) -> Talk:
        """The request on its way; raises `Refused`."""
        try:
            self._served.check_queue(asked.n or 1)
            return await self._submitted(request, asked, wish, leave)
        except Exception as error:
            raise refused(error) from error
        finally:
            leave()

    async def _submitted(self, request: Request, asked: ChatRequest, wish: Wish, leave: Callable[[], None]) -> Talk:
        served, tongue = self._served, self._tongue
        messages = [turn.model_dump(mode="json", exclude_none=True) for turn in asked.messages]
        given = asked.tools if asked.tools and asked.tool_choice != "none" else ()
        tools = [tool.model_dump(mode="json", exclude_none=True) for tool in given]
        async with served.media.opened(messages, _left(request, served.limits)) as shown:
            media = [one for turn in shown for one in _media(turn)]
            prompt, inputs = await served.media.run(tongue.prompt, messages, media, tools)
        ids = inputs["input_ids"]
        check_prompt(ids.shape[1], served.limits)
        settings = tongue.settings(asked, ids.shape[1])
        count, seconds = asked.n or 1, _left(request, served.limits)
        # Of a text alone there is nothing to judge.
        filtered = wish.filter if media else None
        known, specials = request.state.request_id, tongue.specials
        readers = [None if filtered is not None else tongue.reader(ids, tools) for _ in range(count)]
        seen = seen_shares(served.processor, [one for one in media if isinstance(one, Image.Image)])
        talk = Talk(
            asked, wish, known, request.state.began,
            [Writer(known, number, served.batcher.spelled, one, specials) for number, one in enumerate(readers)],
            seen if wish.kept else None, served.metrics, seconds,
        )  # fmt: skip
        owner = getattr(request.state, "owner", "anyone")
        try:
            if filtered is not None:
                assert served.hf is not None
                length = ids.shape[1]
                self._filter(talk, Filtering(
                    served.hf, served.handle, filtered, wish.program, prompt, media, length,
                    options(asked, settings.max_new_tokens), asked.seed,
                    bool(asked.stream), seconds, _teller(talk, 0),
                ), owner)  # fmt: skip
            else:
                likely = None if not asked.logprobs else asked.top_logprobs or 0
                seeds = [None if asked.seed is None else asked.seed + number for number in range(count)]
                jobs = [
                    Job(inputs, settings, wish.program, seed, likely, seconds, owner, asked.adjust) for seed in seeds
                ]
                await served.media.run(_submit, served, talk, jobs, leave)
        except BaseException:
            talk.cancel()
            raise
        return talk

    def _filter(self, talk: Talk, work: Filtering, owner: str) -> None:
        """Hand an answer to the filter."""
        self._served.handle.check(work.program)
        future = self._served.batcher.alone(work, owner, work.seconds)
        future.add_done_callback(work.over)
        talk.until(work.cancel)
        talk.until(future.cancel)


def _submit(served: Served, talk: Talk, jobs: Sequence[Job], leave: Callable[[], None]) -> None:
    try:
        for number, job in enumerate(jobs):
            talk.until(served.batcher.submit(job, _teller(talk, number)).cancel)
    finally:
        leave()  # before the loop hears of it: others may wait for this


def _teller(talk: Talk, number: int) -> Callable[[Event], None]:
    """Brings events from the model's thread to the loop that the request runs in."""
    return partial(_tell, talk.loop, talk.events, number)


def _tell(loop: asyncio.AbstractEventLoop, events: Any, number: int, event: Event) -> None:
    with suppress(RuntimeError):  # the loop is closed: nobody listens
        loop.call_soon_threadsafe(events.put_nowait, (number, event))


def _note(request: Request, talk: Talk) -> None:
    """Leave to the log what was answered."""
    assert talk.did is not None
    request.state.told = {
        "strategy": talk.wish.strategy, "kept": talk.did.kept, "image_tokens": talk.did.image_tokens,
        "tokens": talk.tokens, "owner": getattr(request.state, "owner", ""), "user": talk.asked.user,
    }  # fmt: skip


def _shows(asked: ChatRequest) -> bool:
    """Whether a chat has pictures or videos."""
    parts = [part for turn in asked.messages if isinstance(turn.content, list) for part in turn.content]
    return any(part.type != "text" for part in parts)


def _left(request: Request, limits: Limits) -> float:
    """Seconds that a request may still take, of those it may since it came.

    Raises:
        Refused: there are none.
    """
    left: float = request.state.began + limits.seconds - time.monotonic()
    if left <= 0:
        raise too_slow()
    return left


def _media(turn: dict[str, Any]) -> Iterator[Medium]:
    """The pictures and videos of a message that `Media` opened, in order."""
    content = turn.get("content")
    for part in content if isinstance(content, list) else ():
        if part["type"] in ("image", "video"):
            yield part["image"] if part["type"] == "image" else part["clip"]
