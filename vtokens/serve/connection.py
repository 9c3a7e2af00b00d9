"""Connections of uvicorn with bounds of their own: on how many there are, and until when a header must be there."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from vtokens.serve.errors import Refused, busy, head_of
from vtokens.serve.limits import Limits

_KEEP_ALIVE = 5  # seconds that a connection waits for its next request


def server_options(limits: Limits) -> dict[str, Any]:
    """Keyword arguments of `uvicorn.Config` for a server that strangers may reach.

    h11 and not httptools, which bounds neither the size of headers nor the time that they take.
    """
    return {
        "http": protocol(limits),
        "h11_max_incomplete_event_size": limits.header,
        "ws": "none",
        "timeout_keep_alive": _KEEP_ALIVE,
        "server_header": False,
        "proxy_headers": False,
    }


def protocol(limits: Limits) -> type[asyncio.Protocol]:
    """A class of connections: HTTP/1.1 by h11, with the bounds `header_seconds`, `send_seconds` and `connections`."""

    class Connection(H11Protocol):
        _deadline: asyncio.TimerHandle | None = None
        _unread: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > limits.connections:
                self._close(busy("this server has as many connections as it may: try again in a second"))
                return
            self._wait_for_header()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            if self._unread is not None:
                self._unread.cancel()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self.transport.is_closing():
                return
            super().data_received(data)
            if self.conn.their_state is h11.IDLE:
                # Between two requests uvicorn's own clock runs, until the first byte of the next.
                if self._deadline is None and self.conn.our_state is h11.IDLE:
                    self._wait_for_header()
            else:
                self._stop_waiting()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._unread = self.loop.call_later(limits.send_seconds, self.transport.abort)

        def resume_writing(self) -> None:
            if self._unread is not None:
                self._unread.cancel()
                self._unread = None
            super().resume_writing()

        def send_400_response(self, msg: str) -> None:
            """What is no HTTP is answered as all else is, in OpenAI's form."""
            self._close(Refused(400, msg.replace("HTTP", "or too long HTTP", 1), code="bad_request"))

        def _wait_for_header(self) -> None:
            self._deadline = self.loop.call_later(limits.header_seconds, self._too_slow)

        def _stop_waiting(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def _too_slow(self) -> None:
            self._deadline = None
            if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
                message = f"the header was not there after {limits.header_seconds:g} s"
                self._close(Refused(408, message, code="header_too_slow"))

        def _close(self, refused: Refused) -> None:
            start, data = head_of(refused)
            reason = {400: b"Bad Request", 408: b"Request Timeout", 503: b"Service Unavailable"}[refused.status]
            lines = [b"HTTP/1.1 %d %s" % (refused.status, reason), b"connection: close"]
            lines += [name + b": " + value for name, value in start["headers"]]
            self.transport.write(b"\r\n".join(lines) + b"\r\n\r\n" + data)
            self.transport.close()

    return Connection
