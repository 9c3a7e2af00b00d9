"""Bodies of requests, counted while they come: of bounded size, in bounded time, and few bytes of all at once."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

from vtokens.core.errors import shorten
from vtokens.core.reading import parse_json
from vtokens.serve.errors import App, Message, Receive, Refused, Scope, Send, busy, head_of
from vtokens.serve.limits import Limits

_LINGER = 2.0
"""Seconds in which the rest of a body that is too large is thrown away, so that the client reads why."""
_TEXTS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)


class Unread(Exception):
    """The client left before its body was there."""


class Bodies:
    """Reads the body of a request before the app is asked, and hands it on whole.

    What a header says of its length is believed where it is too much already, and else counted.
    """

    def __init__(self, app: App, limits: Limits) -> None:
        self._app, self._limits, self._held = app, limits, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        taken = [0]  # bytes that count against those of all requests, given back when this one is answered
        try:
            body = await self._read(scope, receive, taken)
        except Unread:
            self._held -= taken[0]
            return
        except Refused as refused:
            self._held -= taken[0]
            return await _last(receive, send, refused)
        except BaseException:
            self._held -= taken[0]
            raise
        try:
            await self._app(scope, _replayed(body, receive), send)
        finally:
            self._held -= taken[0]

    async def _read(self, scope: Scope, receive: Receive, taken: list[int]) -> bytes:
        most, seconds = self._limits.body, self._limits.body_seconds
        told = dict(scope["headers"]).get(b"content-length", b"0")
        if int(told) > most:
            raise _large(f"{int(told):,}", most)
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Unread
                    part = message.get("body", b"")
                    taken[0] += len(part)
                    self._held += len(part)
                    if taken[0] > most:
                        raise _large(f"more than {most:,}", most)
                    if self._held > self._limits.bodies:
                        raise busy("this server holds as many bytes of requests as it may: try again in a second")
                    if part:
                        parts.append(part)
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            raise Refused(
                408,
                f"the body was not there after {seconds:g} s: {taken[0]:,} bytes came",
                code="body_too_slow",
                headers={"Connection": "close"},
            ) from None


def read_json(body: bytes, limits: Limits) -> dict[str, Any]:
    """The object in a body of JSON that every reader understands alike (`vtokens.core.reading.parse_json`).

    Values are counted before they are made: a body of empty lists takes fifty times its size as objects. A body of 32
    MiB takes up to 2 s, which are for a thread of its own (`Media.run`).

    Raises:
        Refused: 400 for other bytes, or more values, or nested deeper than is allowed.
    """
    commas = body.count(b",") + body.count(b"[") + body.count(b"{")
    if commas >= limits.values:  # texts may hold as many: look again without them
        # As many quotes would be as many texts, and long to look through.
        bare = body if body.count(b'"') > 4 * limits.values else _TEXTS.sub(b"", body)
        commas = bare.count(b",") + bare.count(b"[") + bare.count(b"{")
        if commas >= limits.values:
            raise _no_json(f"it holds more than {limits.values:,} values")
    try:
        content = parse_json(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _no_json(f"it is not UTF-8: {error.reason} at byte {error.start}") from None
    except ValueError as error:
        raise _no_json(str(error)) from None
    if not isinstance(content, dict):
        raise _no_json(f"it is {shorten(content, 40)}, and an object is needed")
    return content


async def _last(receive: Receive, send: Send, refused: Refused) -> None:
    """Answer, and read on for a moment: a client that is still sending would else be cut off before it has read it."""
    refused.headers.setdefault("Connection", "close")
    start, data = head_of(refused)
    await send(start)
    await send({"type": "http.response.body", "body": data, "more_body": True})
    end = time.monotonic() + _LINGER
    try:
        async with asyncio.timeout(_LINGER):
            while time.monotonic() < end:
                message = await receive()
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    break
    except TimeoutError:
        pass
    await send({"type": "http.response.body", "body": b""})


def _replayed(body: bytes, receive: Receive) -> Receive:
    """What gives the whole body as one message, and then what the server says, which is that the client has left."""
    whole: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return whole.pop() if whole else await receive()

    return again


def _large(size: str, most: int) -> Refused:
    message = f"the body has {size} bytes: at most {most:,} are allowed"
    return Refused(413, message, code="body_too_large", headers={"Connection": "close"})


def _no_json(why: str) -> Refused:
    return Refused(400, f"the body is no JSON that is read here: {why}", code="bad_json")
