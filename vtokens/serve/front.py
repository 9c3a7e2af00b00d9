"""What stands before everything: the request's id, and the count of answers, whoever gives them."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Iterable

from vtokens.serve.errors import REASON, App, Message, Receive, Scope, Send
from vtokens.serve.metrics import Metrics

CHAT = "/v1/chat/completions"
_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")
_REASON = REASON.encode()
_log = logging.getLogger("vtokens.serve")


class Front:
    """Gives each request an id (`x-request-id`, the client's if it is a plain one), and counts its answer.

    Args:
        app: what answers.
        metrics: are counted in.
        routes: that are counted by name, the others together.
    """

    def __init__(self, app: App, metrics: Metrics, routes: Iterable[str]) -> None:
        self._app, self._metrics, self._routes = app, metrics, frozenset(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = [value for name, value in scope["headers"] if name == b"x-request-id"]
        known = given[0] if len(given) == 1 and _ID.fullmatch(given[0]) else uuid.uuid4().hex.encode()
        state = scope.setdefault("state", {})
        state["request_id"], state["began"] = known.decode(), time.monotonic()
        status, reason = 500, ""

        async def passed(message: Message) -> None:
            nonlocal status, reason
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = list(message.get("headers", ()))
                reason = next((value.decode() for name, value in headers if name == _REASON), "")
                message = {**message, "headers": [*headers, (b"x-request-id", known)]}
            await send(message)

        try:
            await self._app(scope, receive, passed)
        finally:
            self._count(scope["path"], status, reason, time.monotonic() - state["began"], state)

    def _count(self, path: str, status: int, reason: str, seconds: float, state: dict[str, object]) -> None:
        route = path if path in self._routes else "other"
        self._metrics.responses.labels(route, str(status)).inc()
        if status >= 400:
            self._metrics.refusals.labels(reason or "other").inc()
        if route == CHAT:
            self._metrics.whole.observe(seconds)
            facts = " ".join(f"{name}={value!r}" for name, value in dict(state.get("told") or {}).items())  # type: ignore[call-overload]
            _log.info("%s %d %.3fs %s", state["request_id"], status, seconds, facts or reason)
