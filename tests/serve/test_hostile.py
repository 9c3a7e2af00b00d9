"""The genuine application, asked by those who mean it harm, and by schemathesis, which means everything."""

from __future__ import annotations

import gc
import json
import random
import socket
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.serve.attacked import head, raw, served, told, until_closed
from tests.serve.bombs import saved, url
from tests.serve.fuzz.__main__ import described, fuzz
from tests.serve.hostile import chat, hostile, shown
from vtokens.core.reading import MEBIBYTE
from vtokens.serve.app import make_app
from vtokens.serve.front import Front
from vtokens.serve.keys import Keys
from vtokens.serve.limits import Limits
from vtokens.serve.server import ROUTES
from vtokens.serve.settings import Settings

LIMITS = Limits(
    body=MEBIBYTE,
    body_seconds=2.0,
    media_seconds=1.0,
    pixels=1_000_000,
    all_pixels=2_000_000,
    new_tokens=16,
    default_new_tokens=8,
)
KEY = "0123456789abcdef"


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    hosts = ("http://localhost:1",)  # where nobody listens
    app = make_app(Settings(trust=True, presets={"fast": "cls(keep=0.25)"}, limits=LIMITS, hosts=hosts))
    keys = Keys([("fuzz", KEY)])
    with served(app, LIMITS, keys, lambda inner: Front(inner, app.state.metrics, ROUTES)) as found:
        yield found


def ask(port: int, body: bytes, **headers: Any) -> bytes:
    """What the server answers to a body."""
    given = {"authorization": f"Bearer {KEY}", "content_length": len(body)} | headers
    return raw(port, head(**given) + body, wait=20)


def memory() -> int:
    """Bytes of this process that lie in memory."""
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def test_a_thousand_hostile_bodies(port: int) -> None:
    """Each is refused with a 4xx of one line, in bounded memory, and an honest one is answered as before."""
    honest = chat(shown(url(saved(64, 64))), {"type": "text", "text": "is there a red circle?"}, temperature=0)
    first = json.loads(ask(port, honest).partition(b"\r\n\r\n")[2])
    bodies, drawn, seen = hostile(), random.Random(0), Counter()
    order = bodies + drawn.choices(bodies, k=1000 - len(bodies))
    for number, body in enumerate(order):
        status, error = told(ask(port, body))
        assert 400 <= status < 500, (body[:300], error)
        assert "Traceback" not in error["message"]
        seen[status, error["code"]] += 1
        if number == len(bodies) + 100:
            before = memory()
    assert memory() - before < 48 * MEBIBYTE
    assert len(seen) >= 8, seen
    again = json.loads(ask(port, honest).partition(b"\r\n\r\n")[2])
    assert again["choices"] == first["choices"]


def test_parts_cut_in_the_middle(port: int) -> None:
    """Clients that leave while they send or wait: the server is there for the next."""
    for cut in (b"", b'{"messages"', chat({"type": "text", "text": "go on"}, max_tokens=16)):
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", port), timeout=5) as line:
                line.sendall(head(authorization=f"Bearer {KEY}", content_length=max(len(cut), 20)) + cut)
                time.sleep(0.02)
    with socket.create_connection(("127.0.0.1", port), timeout=20) as line:
        line.sendall(head("/health", "GET", content_type=None, content_length=None))
        assert until_closed(line).startswith(b"HTTP/1.1 200")


def test_only_the_methods_and_paths_that_are_described(port: int) -> None:
    for path in (
        "/v1/chat/completions",
        "/v1/models",
        "/health",
        "/metrics",
        "/openapi.json",
        "/docs",
        "/load_model",
        "/reset",
        "/v1/completions",
        "/v1/responses",
    ):
        for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "FOO"):
            body = b"" if method in ("GET", "OPTIONS", "TRACE", "CONNECT", "FOO") else b"{}"
            options = {"authorization": f"Bearer {KEY}", "content_length": len(body)}
            status = told(raw(port, head(path, method, **options) + body, wait=10))[0]
            known = {"/v1/chat/completions": "POST"}.get(path, "GET")
            there = path in ("/v1/chat/completions", "/v1/models", "/health", "/metrics", "/openapi.json")
            expected = (
                {404} if not there else {400} if known == method == "POST" else {200} if known == method else {405, 400}
            )
            assert status in expected, (method, path)


def test_what_is_described_is_what_is_answered(port: int) -> None:
    """A small share of `make fuzz-serve`."""
    base = f"http://127.0.0.1:{port}"
    rows = fuzz(base, described(base, KEY), 60, 0, KEY)
    faults = [(row["fault"], row["sent"]) for row in rows if row["fault"]]
    assert faults == []
    assert {row["drawn"] for row in rows} == {"allowed", "forbidden", "answered"}
    assert sum(bool(row["generated"]) for row in rows) >= 8
