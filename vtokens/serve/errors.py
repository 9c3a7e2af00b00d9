"""Errors as OpenAI's clients read them: a status, and a body that says what is wrong in one line."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


REASON = "x-vtokens-refused"
"""The header with a refusal's `code`: a gateway, and the metrics, read it without the body."""


class Refused(Exception):
    """A request that is not answered, with the reason.

    Attributes:
        status: of HTTP.
        message: what was given, what is allowed and the nearest right one, made one line.
        code: a name for programs, as "body_too_large".
        param: which part of the request it is about, as "messages[0].content[1].image_url.url".
        kind: OpenAI's `type`.
        headers: of the answer, as `Retry-After`; the code is among them.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        kind: str = "invalid_request_error",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param, self.kind = status, code, param, kind
        self.message = " ".join(message.split())
        self.headers = {REASON: code, **(headers or {})}

    def body(self) -> dict[str, Any]:
        """OpenAI's form of an error."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def encoded(self) -> bytes:
        """The body as JSON on one line, in ASCII, whatever the message repeats."""
        return json.dumps(self.body()).encode("ascii")


def busy(message: str, seconds: int = 1) -> Refused:
    """A refusal that may be tried again after so many seconds."""
    return Refused(503, message, code="busy", kind="server_error", headers={"Retry-After": str(seconds)})


def head_of(refused: Refused) -> tuple[Message, bytes]:
    """The message of ASGI that begins the answer, and the whole of its body."""
    data = refused.encoded()
    headers = {"content-type": "application/json", "content-length": str(len(data)), **refused.headers}
    pairs = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    return {"type": "http.response.start", "status": refused.status, "headers": pairs}, data


async def answer(send: Send, refused: Refused) -> None:
    """Write a refusal as the whole answer to a request."""
    start, data = head_of(refused)
    await send(start)
    await send({"type": "http.response.body", "body": data})
