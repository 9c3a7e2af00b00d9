"""Where requests come in: a chat is read and taken in (`intake`), and its answer sent while the client stays."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from vtokens.serve.answers import ErrorAnswer
from vtokens.serve.bodies import read_json
from vtokens.serve.chat import Talk
from vtokens.serve.checked import read_request
from vtokens.serve.intake import Intake
from vtokens.serve.leaving import Gone, unless_gone
from vtokens.serve.limits import check_chat
from vtokens.serve.model import Served
from vtokens.serve.refusals import refused
from vtokens.serve.sent import chunks, headers, whole
from vtokens.serve.tongue import Tongue
from vtokens.serve.writing import shutting_down


class Desk:
    """Answers chats.

    Args:
        served: the model, and what requests need.
        tongue: speaks to it.
    """

    def __init__(self, served: Served, tongue: Tongue) -> None:
        self._served, self._tongue = served, tongue
        self._intake = Intake(served, tongue)

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
        self._intake.check(asked, wish)
        talk: Talk | None = None
        try:
            talk = await unless_gone(request, self._intake.begin(request, asked, wish, leave))
            assert talk is not None
            if not asked.stream:
                answer = await unless_gone(request, whole(talk))
                _note(request, talk)
                return JSONResponse(answer.model_dump(exclude_none=True), headers=headers(talk, final=True))
            pieces = talk.pieces()
            first = await unless_gone(request, anext(pieces))
        except BaseException as error:
            if talk is not None:
                talk.cancel()
            if isinstance(error, Gone):
                return Response(status_code=499)
            raise
        events = self._events(request, talk, first, pieces)
        return StreamingResponse(events, headers=headers(talk, final=False), media_type="text/event-stream")

    async def _events(self, request: Request, talk: Talk, first: Any, pieces: Any) -> AsyncIterator[str]:
        try:
            async with aclosing(chunks(talk, first, pieces)) as pieced:
                async for chunk in pieced:
                    yield self._tongue.event(chunk)
            yield "data: [DONE]\n\n"
            _note(request, talk)
        except Exception as error:
            told = refused(error)
            talk.metrics.refusals.labels(told.code).inc()
            yield self._tongue.event(ErrorAnswer.model_validate(told.body()))
        finally:
            talk.cancel()


def _note(request: Request, talk: Talk) -> None:
    """Leave to the log what was answered."""
    assert talk.did is not None
    request.state.told = {
        "strategy": talk.wish.strategy, "kept": talk.did.kept, "image_tokens": talk.did.image_tokens,
        "tokens": talk.tokens, "owner": getattr(request.state, "owner", ""), "user": talk.asked.user,
    }  # fmt: skip
