"""The application: its routes, what they say of themselves, and errors in one form."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from vtokens import __version__
from vtokens.serve.answers import ChatAnswer, ErrorAnswer
from vtokens.serve.asked import ChatRequest
from vtokens.serve.desk import Desk
from vtokens.serve.errors import Refused
from vtokens.serve.front import CHAT
from vtokens.serve.listed import Health, Model, ModelFacts, ModelList
from vtokens.serve.metrics import CONTENT_TYPE
from vtokens.serve.model import Served
from vtokens.serve.openapi import describe
from vtokens.serve.refusals import failed
from vtokens.strategies.registry import list_strategies

_log = logging.getLogger("vtokens.serve")
_WRONG: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer} for status in (400, 401, 403, 408, 413, 414, 415, 421, 431, 500, 503)
}


def routed(served: Served, desk: Desk) -> FastAPI:
    """The application that answers at a desk.

    `app.state` holds `served`, `batcher`, `media`, `metrics`, and `drain()`, which blocks until all is answered.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(served.end)

    # FastAPI's own pages of documentation load scripts from elsewhere.
    app = FastAPI(
        title="vtokens", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None,
        description="OpenAI's chat completions, with a choice of visual tokens, and a filter, for each request.",
    )  # fmt: skip
    app.state.served, app.state.batcher = served, served.batcher
    app.state.media, app.state.metrics = served.media, served.metrics
    app.state.drain = partial(served.batcher.drain, served.settings.drain)
    models, began = model_list(served), int(time.time())
    for model in models.data:
        model.created = began

    @app.post(
        CHAT, summary="Answer a chat", response_model=ChatAnswer,
        responses={**_WRONG, 404: {"model": ErrorAnswer}, 429: {"model": ErrorAnswer}, 504: {"model": ErrorAnswer}},
    )  # fmt: skip
    async def chat(request: Request) -> Response:
        return await desk.answer(request)

    @app.get("/v1/models", summary="What `model` may be", response_model_exclude_none=True, responses=_WRONG)
    async def list_models() -> ModelList:
        return models

    @app.get("/health", summary="Whether requests are taken", responses={503: {"model": Health}})
    async def health(response: Response) -> Health:
        if served.batcher.draining:
            response.status_code = 503
            return Health(status="draining")
        return Health(status="ok")

    @app.get("/metrics", summary="Counts and times, for Prometheus", response_class=Response, responses=_WRONG)
    async def metrics() -> Response:
        return Response(served.metrics.text(), headers={"content-type": CONTENT_TYPE})

    if served.settings.page:
        from vtokens.serve.page import add_page

        add_page(app)
    _errors(app)
    describe(app, ChatRequest, CHAT, [model.id for model in models.data])
    return app


def model_list(served: Served) -> ModelList:
    """The model and its presets; the first says what the server lets in."""
    programs, found = served.programs, []
    for name in programs.programs:
        facts = ModelFacts(strategy=programs.spec(name))
        if name == programs.base:
            facts.free = served.settings.trust
            facts.filter = list(served.actions) or False
            if facts.free:
                facts.strategies = list_strategies(family=served.model.config.model_type)
        found.append(Model(id=name, created=0, owned_by="vtokens", vtokens=facts))
    return ModelList(data=found)


def _errors(app: FastAPI) -> None:
    """Give all errors OpenAI's form."""

    def answer(error: Refused) -> JSONResponse:
        return JSONResponse(error.body(), error.status, error.headers)

    async def on_refused(request: Request, error: Any) -> Response:
        return answer(error)

    async def on_http(request: Request, error: Any) -> Response:
        known = {404: "not_found", 405: "method_not_allowed"}
        message = f"{request.method} {request.url.path}: {error.detail}"
        return answer(
            Refused(
                error.status_code, message[:500], code=known.get(error.status_code, "http_error"), headers=error.headers
            )
        )

    async def on_failed(request: Request, error: Exception) -> Response:
        return answer(failed(error))

    app.add_exception_handler(Refused, on_refused)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(Exception, on_failed)
