"""What is refused by a request's first line and headers, before a key is looked at or a byte of its body is read."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from vtokens.core.errors import shorten
from vtokens.serve.bodies import Bodies
from vtokens.serve.errors import App, Message, Receive, Refused, Scope, Send, answer
from vtokens.serve.keys import Keys, RequireKey
from vtokens.serve.limits import Limits

_PATH = re.compile(rb"(/[A-Za-z0-9._~:-]*)+")
_ONCE = (b"host", b"content-length", b"content-type", b"authorization", b"transfer-encoding", b"origin")
_REQUEST_ID = re.compile(rb"[!-~]{1,200}")
_WRITES = ("POST", "PUT", "PATCH", "DELETE")
_ASKED = [
    (b"access-control-allow-methods", b"GET, POST"),
    (b"access-control-allow-headers", b"authorization, content-type, x-request-id"),
    (b"access-control-max-age", b"600"),
]
LOOPBACK = ("localhost",)
"""Names that mean this machine, beside its addresses."""


class Guard:
    """Refuses requests by what their first line and headers say; the outermost of all.

    A page of any site can make a browser on this machine ask a server on it. Such a page reads no answer, since none
    allows it; its request is refused by its `Origin`, or by the name that it took the server for (`Host`), which a
    site may let lead to this machine.

    Args:
        app: what is asked then.
        limits: of the request.
        hosts: names that the server has, with or without a port; None if all are allowed, which a server behind a key
            may do. On loopback, its addresses and `localhost` are always allowed.
        origins: of pages on other sites that may ask, as "https://example.org".
    """

    def __init__(
        self, app: App, limits: Limits, hosts: Iterable[str] | None = None, origins: Iterable[str] = ()
    ) -> None:
        self._app, self._limits = app, limits
        self._hosts = None if hosts is None else {_plain(one) for one in hosts}
        self._origins = {one.rstrip("/").lower() for one in origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":  # no web sockets
            return await send({"type": "websocket.close", "code": 1008})
        try:
            self._check(scope)
        except Refused as refused:
            refused.headers.setdefault("Connection", "close")  # what follows may be no request
            return await answer(send, refused)
        origin = next((value for name, value in scope["headers"] if name == b"origin"), b"")
        if origin.decode("latin-1").lower() not in self._origins:
            return await self._app(scope, receive, send)
        if scope["method"] == "OPTIONS":  # a browser asks first, and sends no key with that
            await send({"type": "http.response.start", "status": 204, "headers": [*_allowing(origin), *_ASKED]})
            return await send({"type": "http.response.body", "body": b""})

        async def shared(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *_allowing(origin)]}
            await send(message)

        await self._app(scope, receive, shared)

    def _check(self, scope: Scope) -> None:
        headers: dict[bytes, bytes] = {}
        # h11 bounds what is not yet whole: headers that come in one piece are counted here.
        if sum(len(name) + len(value) + 4 for name, value in scope["headers"]) > self._limits.header:
            message = f"the headers have more than {self._limits.header:,} bytes, the most that are allowed"
            raise Refused(431, message, code="bad_header")
        for name, value in scope["headers"]:
            if name in headers and name in _ONCE:
                raise _bad_header(f"the header {name.decode('latin-1')} is there twice: once is allowed")
            headers[name] = value
        _check_path(scope, self._limits.path)
        _check_length(headers)
        given = headers.get(b"x-request-id")
        if given is not None and not _REQUEST_ID.fullmatch(given):
            raise _bad_header("x-request-id is not allowed: up to 200 characters of ASCII without spaces are")
        host = headers.get(b"host", b"").decode("latin-1").lower()
        self._check_host(host)
        self._check_origin(headers, host, str(scope.get("scheme", "http")))
        _check_content(str(scope["method"]), headers)

    def _check_host(self, host: str) -> None:
        name = _plain(host)
        if self._hosts is None or name in self._hosts or name in LOOPBACK or _is_loopback(name):
            return
        raise Refused(
            421,
            f"this server is not {shorten(host)}: it is asked as localhost or 127.0.0.1, and --server-name adds a name",
            code="bad_host",
        )

    def _check_origin(self, headers: Mapping[bytes, bytes], host: str, scheme: str) -> None:
        origin = headers.get(b"origin", b"").decode("latin-1").lower()
        # A proxy in front may speak https to the browser and http to us: the host decides.
        own = urlsplit(origin).netloc == host if origin.startswith(("http://", "https://")) else False
        site = headers.get(b"sec-fetch-site", b"none").decode("latin-1").lower()
        if origin in self._origins and origin:
            return
        if (origin and not own) or site == "cross-site":
            raise Refused(
                403,
                f"pages of {shorten(origin or 'other sites')} may not ask this server: --allow-origin lets them",
                code="bad_origin",
                kind="permission_error",
            )


def _allowing(origin: bytes) -> list[tuple[bytes, bytes]]:
    """Headers that let a page of this site read an answer."""
    exposed = b"x-request-id, x-vtokens-strategy, x-vtokens-kept, x-vtokens-flags"
    return [(b"access-control-allow-origin", origin), (b"access-control-expose-headers", exposed), (b"vary", b"Origin")]


def _check_path(scope: Scope, most: int) -> None:
    raw = scope.get("raw_path") or str(scope["path"]).encode("utf-8", "surrogateescape")
    if len(raw) + len(scope.get("query_string", b"")) > most:
        raise Refused(414, f"the path is longer than {most:,} characters, the most that are allowed", code="bad_path")
    # No path of ours needs an escape, and what two readers understand differently is how a door in front is passed.
    if not _PATH.fullmatch(raw) or b"//" in raw or any(part in (b".", b"..") for part in raw.split(b"/")):
        raise Refused(
            400,
            f"the path {shorten(raw.decode('latin-1'), 80)} is not allowed: letters, digits and ._~:- between single "
            "slashes are",
            code="bad_path",
        )


def _check_length(headers: Mapping[bytes, bytes]) -> None:
    length, coding = headers.get(b"content-length"), headers.get(b"transfer-encoding")
    if length is not None and (coding is not None or not re.fullmatch(rb"[0-9]{1,18}", length)):
        raise _bad_header("content-length is one number without a sign, and not beside transfer-encoding")
    if coding is not None and coding.lower() != b"chunked":
        raise _bad_header(f"transfer-encoding {shorten(coding.decode('latin-1'), 40)} is not allowed: chunked is")


def _check_content(method: str, headers: Mapping[bytes, bytes]) -> None:
    coding = headers.get(b"content-encoding", b"identity").decode("latin-1")
    if coding.lower() not in ("identity", ""):
        raise Refused(
            415,
            f"a body with content-encoding {shorten(coding, 40)} is not read: send it as it is",
            code="bad_encoding",
            headers={"Accept-Encoding": "identity"},
        )
    kind = headers.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip().lower()
    # The other types are what a page of any site may send without the browser asking us first.
    if method in _WRITES and kind != "application/json":
        raise Refused(
            415,
            f"content-type {shorten(kind, 40) if kind else 'is missing'}: application/json is allowed",
            code="bad_type",
        )


def _plain(host: str) -> str:
    """A host as a header or an option gives it, without its port; "" for none that could be one."""
    found = re.fullmatch(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?", host.lower())
    return found[1].strip("[]") if found else ""


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _bad_header(message: str) -> Refused:
    return Refused(400, message, code="bad_header")


def guarded(
    app: App,
    limits: Limits,
    keys: Keys,
    *,
    loopback: bool = True,
    hosts: Iterable[str] = (),
    origins: Iterable[str] = (),
    open_metrics: bool = False,
) -> App:
    """An app behind all that makes it safe: headers first, then the key, then the body.

    Args:
        app: of ASGI.
        limits: of a request.
        keys: who may ask; none lets everybody in.
        loopback: whether it is asked on this machine only, which is when names of hosts matter.
        hosts: names it has besides. On a public address all names are right unless some are given.
        origins: of pages on other sites that may ask.
        open_metrics: whether /metrics needs no key.
    """
    names = [*hosts]
    free = ("/health", "/", "/page/", *(["/metrics"] if open_metrics else []))
    inner = RequireKey(Bodies(app, limits), keys, free)
    return Guard(inner, limits, names if names or loopback else None, origins)
