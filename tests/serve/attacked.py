"""A genuine uvicorn on a loopback port, and clients that write to its socket whatever they like."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from vtokens.serve.connection import server_options
from vtokens.serve.errors import App, Receive, Scope, Send
from vtokens.serve.guard import guarded
from vtokens.serve.keys import Keys
from vtokens.serve.limits import Limits


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """An app that says what reached it: whose the request was, its path, and how many bytes its body had, in parts."""
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        return await send({"type": "lifespan.shutdown.complete"})
    message = await receive()
    told = {"owner": scope["state"]["owner"], "path": scope["path"], "bytes": len(message["body"])}
    data = json.dumps(told | {"whole": not message["more_body"]}).encode()
    if scope["path"] == "/large":
        data = b"x" * (1 << 26)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": data, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


@contextmanager
def served(
    app: App = echo,
    limits: Limits | None = None,
    keys: Keys | None = None,
    front: Callable[[App], App] = lambda inner: inner,
    **options: Any,
) -> Iterator[int]:
    """The port of an app behind all that makes it safe, and behind what stands before that."""
    limits = limits or Limits()
    whole = front(guarded(app, limits, keys or Keys(), **options))
    config = uvicorn.Config(whole, port=0, log_level="critical", **server_options(limits))
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.005)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = server.force_exit = True
        thread.join(10)
        assert not thread.is_alive()


def head(path: str = "/v1/chat/completions", method: str = "POST", **headers: Any) -> bytes:
    """The first line and headers of a request; None leaves one out, a list repeats one."""
    given = {"host": "127.0.0.1", "content-type": "application/json", "content_length": 2}
    lines = [f"{method} {path} HTTP/1.1"]
    for name, value in (given | headers).items():
        lines += [f"{name.replace('_', '-')}: {one}" for one in (value if isinstance(value, list) else [value])]
    return "\r\n".join(line for line in lines if not line.endswith(": None")).encode("utf-8") + b"\r\n\r\n"


def raw(port: int, *parts: bytes, pause: float = 0.0, wait: float = 5.0) -> bytes:
    """All that a server answers to these bytes, until it closes the connection or is silent for `wait` seconds."""
    with socket.create_connection(("127.0.0.1", port), timeout=wait) as line:
        try:
            for part in parts:
                line.sendall(part)
                if pause:
                    time.sleep(pause)
        except OSError:
            pass  # it has hung up, and may have said why
        return until_closed(line)


def until_closed(line: socket.socket) -> bytes:
    """What comes until the other end closes, or an answer of a told length is there."""
    found = b""
    while not _whole(found):
        try:
            part = line.recv(1 << 16)
        except OSError:
            break
        if not part:
            break
        found += part
    return found


def _whole(found: bytes) -> bool:
    """Whether an answer with a length is there, or the last part of one without."""
    first, mark, body = found.partition(b"\r\n\r\n")
    for line in first.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return bool(mark) and len(body) >= int(line.partition(b":")[2])
    return body.endswith(b"0\r\n\r\n")


def told(answer: bytes) -> tuple[int, dict[str, Any]]:
    """The status of an answer, and its error: an object in OpenAI's form whose message is one line."""
    first, _, body = answer.partition(b"\r\n\r\n")
    status = int(first.split()[1])
    error = json.loads(body)["error"] if status >= 400 else {}
    if error:
        assert set(error) == {"message", "type", "param", "code"}
        assert "\n" not in error["message"]
        assert len(error["message"]) < 1000
        assert error["code"]
    return status, error


def sent_back(answer: bytes) -> dict[str, Any]:
    """What `echo` said."""
    assert answer.startswith(b"HTTP/1.1 200"), answer[:300]
    return json.loads(answer[answer.index(b"{") : answer.rindex(b"}") + 1])
