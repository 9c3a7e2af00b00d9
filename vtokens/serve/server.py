"""The process that `vtokens serve` is: a socket, the application behind its guards, and an orderly end."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

import uvicorn

from vtokens.serve.app import make_app
from vtokens.serve.connection import server_options
from vtokens.serve.front import CHAT, Front
from vtokens.serve.guard import guarded
from vtokens.serve.keys import Keys, is_loopback
from vtokens.serve.settings import Settings

_FLUSH = 5
"""Seconds in which clients may read the ends of their answers."""
ROUTES = (CHAT, "/v1/models", "/health", "/metrics", "/openapi.json", "/")


class Server(uvicorn.Server):
    """uvicorn's server, which answers what it accepted before it ends.

    At the first signal new chats are refused with 503, and /health says so; once all others are answered, or their time
    is over, the socket is closed. A second signal ends it at once.

    Args:
        config: of uvicorn.
        drain: blocks until all is answered.
        ready: is called when connections are taken.
    """

    def __init__(self, config: uvicorn.Config, drain: Callable[[], Any], ready: Callable[[], Any]) -> None:
        super().__init__(config)
        self._drain, self._ready, self._draining = drain, ready, False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin, and say so."""
        await super().startup(sockets=sockets)
        if self.started:
            self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal, end at the second."""
        if self._draining:
            self.force_exit = self.should_exit = True
            return
        self._draining = True
        if sig == signal.SIGINT:  # which the caller hears of once more when all is over
            self._captured_signals.append(sig)
        threading.Thread(target=self._end, name="vtokens-drain", daemon=True).start()

    def _end(self) -> None:
        try:
            self._drain()
        finally:
            self.should_exit = True


def listen(host: str, port: int) -> socket.socket:
    """A socket that may listen there; raises OSError, with what is wrong, if it cannot."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
    except OSError as error:
        made.close()
        raise _taken(host, port, error) from error
    return made


def _taken(host: str, port: int, error: OSError) -> OSError:
    return OSError(f"cannot listen on --host {host} --port {port}: {error.strerror or error}")


def serve(
    settings: Settings,
    keys: Keys,
    there: socket.socket,
    *,
    names: Iterable[str] = (),
    origins: Iterable[str] = (),
    open_metrics: bool = False,
    ready: Callable[[str], Any] = lambda address: None,
) -> None:
    """Load a model and serve it until a signal ends it.

    Args:
        settings: what is served.
        keys: who may ask.
        there: the socket, from `listen`.
        names: of this server, beside those of this machine.
        origins: of pages elsewhere that may ask.
        open_metrics: whether /metrics needs no key.
        ready: is called with the address when requests are taken.

    Raises:
        TypeError, ValueError, OSError, ImportError: as `serve_model`; OSError also where another process listens there.
    """
    host, port = there.getsockname()[:2]
    app = make_app(settings)
    inner = guarded(
        app, settings.limits, keys, loopback=is_loopback(host), hosts=names, origins=origins, open_metrics=open_metrics
    )
    front: Any = Front(inner, app.state.metrics, ROUTES)
    config = uvicorn.Config(
        front, log_level="warning", access_log=False, lifespan="on", timeout_graceful_shutdown=_FLUSH,
        **server_options(settings.limits),
    )  # fmt: skip
    try:
        # Nobody is to wait for an answer while the model is loaded; another process may have been faster since, of
        # which uvicorn's loop says nothing.
        there.listen(config.backlog)
    except OSError as error:
        raise _taken(host, port, error) from error
    shown = f"[{host}]" if ":" in host else host
    Server(config, app.state.drain, lambda: ready(f"http://{shown}:{port}")).run(sockets=[there])
