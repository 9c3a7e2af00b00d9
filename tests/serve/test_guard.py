"""What is refused by headers and bodies, over genuine sockets."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.serve.attacked import head, raw, sent_back, served, told, until_closed
from vtokens.core.reading import MEBIBYTE
from vtokens.serve.bodies import read_json
from vtokens.serve.errors import Refused
from vtokens.serve.keys import Keys
from vtokens.serve.limits import Limits

SMALL = Limits(body=100_000, body_seconds=1.0, header_seconds=1.0, send_seconds=0.5)
GET: dict[str, Any] = {"method": "GET", "content_type": None, "content_length": None}


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with served(limits=SMALL, hosts=["vision.example.org"], origins=["https://pages.example.org"]) as found:
        yield found


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"host": "localhost:8000"},
        {"host": "[::1]:8000"},
        {"host": "Vision.Example.org"},
        {"host": "127.0.0.1:80", "origin": "http://127.0.0.1:80", "sec-fetch-site": "same-origin"},
        {"host": "vision.example.org", "origin": "https://vision.example.org"},
        {"origin": "https://pages.example.org", "sec-fetch-site": "cross-site"},
        {"content-type": "Application/JSON; charset=utf-8"},
        {"content-encoding": "identity"},
        {"x-request-id": "7c4a8d09-ca37"},
    ],
)
def test_what_is_let_in(port: int, headers: dict[str, Any]) -> None:
    assert sent_back(raw(port, head(**headers) + b"{}"))["bytes"] == 2


def test_pages_of_a_listed_site_may_ask(port: int) -> None:
    """A browser asks first, without a body or a key; both answers name the site, and others get none."""
    site = b"access-control-allow-origin: https://pages.example.org"
    first = {"method": "OPTIONS", "origin": "https://pages.example.org", "access-control-request-method": "POST"}
    with served(keys=Keys([("a", "0123456789abcdef")]), origins=["https://pages.example.org/"]) as locked:
        answer = raw(locked, head(**GET | first))
        assert answer.startswith(b"HTTP/1.1 204")
        assert site in answer
        assert b"access-control-allow-headers: authorization, content-type" in answer
        assert raw(locked, head(origin="https://pages.example.org") + b"{}").startswith(b"HTTP/1.1 401")
        assert told(raw(locked, head(**GET | first | {"origin": "https://evil.example.org"})))[0] == 403
    assert site in raw(port, head(origin="https://pages.example.org") + b"{}")
    assert b"access-control" not in raw(port, head() + b"{}")


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"host": "evil.example.org"}, 421, "bad_host"),
        ({"host": "127.0.0.1.evil.example.org"}, 421, "bad_host"),
        ({"host": "localhost.evil.example.org:8000"}, 421, "bad_host"),
        ({"host": "localhost@evil.example.org"}, 421, "bad_host"),
        ({"host": "10.0.0.1"}, 421, "bad_host"),
        ({"host": ""}, 421, "bad_host"),
        ({"host": None}, 400, "bad_request"),
        ({"host": ["127.0.0.1", "evil.example.org"]}, 400, "bad_request"),
        ({"origin": "http://evil.example.org"}, 403, "bad_origin"),
        ({"origin": "null"}, 403, "bad_origin"),
        ({"origin": "http://127.0.0.1:9999"}, 403, "bad_origin"),
        ({"origin": "http://127.0.0.1@evil.example.org"}, 403, "bad_origin"),
        ({"origin": "https://pages.example.org.evil.org"}, 403, "bad_origin"),
        ({"sec-fetch-site": "cross-site"}, 403, "bad_origin"),
        ({"content-type": "text/plain"}, 415, "bad_type"),
        ({"content-type": "application/x-www-form-urlencoded"}, 415, "bad_type"),
        ({"content-type": "multipart/form-data; boundary=application/json"}, 415, "bad_type"),
        ({"content-type": None}, 415, "bad_type"),
        ({"content-type": ["application/json", "text/plain"]}, 400, "bad_header"),
        ({"content-encoding": "gzip"}, 415, "bad_encoding"),
        ({"content-encoding": "br, gzip"}, 415, "bad_encoding"),
        ({"content_length": "-1"}, 400, "bad_request"),
        ({"content_length": "+2"}, 400, "bad_request"),
        ({"content_length": "0x2"}, 400, "bad_request"),
        ({"content_length": "9" * 30}, 400, "bad_request"),
        ({"content_length": ["2", "3"]}, 400, "bad_request"),
        ({"content_length": 100_001}, 413, "body_too_large"),
        ({"transfer-encoding": "chunked"}, 400, "bad_header"),
        ({"content_length": None, "transfer-encoding": "gzip, chunked"}, 400, "bad_request"),
        ({"content_length": None, "transfer-encoding": "identity"}, 400, "bad_request"),
        ({"content_length": None, "transfer-encoding": ["chunked", "chunked"]}, 400, "bad_request"),
        ({"x-request-id": "a b"}, 400, "bad_header"),
        ({"x-request-id": "a" * 201}, 400, "bad_header"),
        ({"x": "a" * 20_000}, 431, "bad_header"),
    ],
)
def test_headers_that_are_refused(port: int, headers: dict[str, Any], status: int, code: str) -> None:
    found, error = told(raw(port, head(**headers)))
    assert (found, error["code"]) in ((status, code), (400, "bad_header") if code == "bad_request" else (0, ""))


@pytest.mark.parametrize(
    "path",
    ["//v1/models", "/v1/../health", "/v1/./models", "/v1/%6dodels", "/health%00", "/..%2f..%2fetc/passwd",
     "/v1\\models", "/health;a=b", "http://evil.example.org/health", "/ä", "/%2e%2e/health", "/v1//models", "*"],
)  # fmt: skip
def test_paths_that_are_refused(port: int, path: str) -> None:
    status, error = told(raw(port, head(path, **GET)))
    assert status == 400
    assert error["code"] in ("bad_path", "bad_request")


def test_long_paths_are_refused(port: int) -> None:
    for path in ("/" + "a" * 3000, "/health?" + "a" * 3000):
        assert told(raw(port, head(path, **GET)))[0] == 414


def test_lines_that_are_no_http(port: int) -> None:
    """Bytes, half a TLS handshake, headers folded over lines, and a name with a space before its colon."""
    for line in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 9 + b"\r\n\r\n", b"GET\r\n\r\n", b"\0" * 20_000,
                 b"GET / HTTP/1.1\r\nhost : localhost\r\n\r\n",
                 b"GET / HTTP/1.1\r\nhost: localhost\r\na: b\0c\r\n\r\n",
                 b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"):  # fmt: skip
        assert told(raw(port, line))[0] == 400, line[:40]


def test_web_sockets_are_not_spoken(port: int) -> None:
    upgrade = {"connection": "upgrade", "upgrade": "websocket", "sec-websocket-version": 13, "sec-websocket-key": "x"}
    assert sent_back(raw(port, head("/health", **GET, **upgrade)))["path"] == "/health"


def chunked(*sizes: int) -> bytes:
    """A body in parts of these sizes."""
    return b"".join(b"%x\r\n" % size + b"x" * size + b"\r\n" for size in sizes)


def test_a_body_in_parts_is_counted_while_it_comes(port: int) -> None:
    chunks = head(content_length=None, transfer_encoding="chunked")
    answer = sent_back(raw(port, chunks + chunked(99_000, 1000) + b"0\r\n\r\n"))
    assert (answer["bytes"], answer["whole"]) == (100_000, True)
    begun = time.monotonic()
    status, error = told(raw(port, chunks, chunked(99_000, 1001), b"5\r\nnever"))
    assert (status, error["code"]) == (413, "body_too_large")
    assert time.monotonic() - begun < 15
    # One part that says it is 16 EiB long, and a line of digits that never ends.
    assert told(raw(port, chunks, b"ffffffffffffffff\r\n", b"x" * 150_000))[0] == 413
    assert told(raw(port, chunks, b"f" * 20_000))[0] in (400, 408)


def test_an_endless_body_is_left(port: int) -> None:
    """The client goes on sending: it gets the reason, and then the connection is closed."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as line:
        line.sendall(head(content_length=None, transfer_encoding="chunked"))
        part, begun = chunked(60_000), time.monotonic()
        while not _hung_up(line, part) and time.monotonic() - begun < 30:
            time.sleep(0.01)
    assert time.monotonic() - begun < 20


def _hung_up(line: socket.socket, part: bytes) -> bool:
    try:
        line.sendall(part)
    except OSError:
        return True
    return False


def test_a_slow_body_is_left(port: int) -> None:
    begun = time.monotonic()
    status, error = told(raw(port, head(content_length=1000), *[b"x"] * 8, pause=0.2))
    assert (status, error["code"]) == (408, "body_too_slow")
    assert time.monotonic() - begun < 20


def test_a_slow_header_is_left(port: int) -> None:
    """Byte by byte, not at all, and a second one on a connection that answered before."""
    lines = [b"GET /health HTTP/1.1\r\nhost: localhost\r\n", *[b"a: b\r\n"] * 8]
    assert told(raw(port, *lines, pause=0.2))[1]["code"] == "header_too_slow"
    assert told(raw(port))[1]["code"] == "header_too_slow"
    with socket.create_connection(("127.0.0.1", port), timeout=5) as line:
        line.sendall(head("/health", **GET))
        assert until_closed(line).startswith(b"HTTP/1.1 200")
        line.sendall(b"GET /health HTTP/1.1\r\nho")
        assert told(until_closed(line))[1]["code"] == "header_too_slow"


def test_a_client_that_does_not_read_is_left(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as line:
        line.sendall(head("/large", **GET))
        time.sleep(1.5)
        assert len(until_closed(line)) < 1 << 26


def test_bytes_of_all_bodies_are_bounded() -> None:
    """Two that stay under the bound of one, and together pass that of all: the second may try again later."""
    limits = Limits(body=100_000, bodies=150_000)
    with served(limits=limits) as port, socket.create_connection(("127.0.0.1", port), timeout=10) as line:
        line.sendall(head(content_length=90_000) + b"x" * 89_999)
        time.sleep(0.3)
        answer = raw(port, head(content_length=90_000) + b"x" * 89_999)
        assert told(answer)[1]["code"] == "busy"
        assert b"retry-after: 1" in answer
        line.sendall(b"x")
        assert sent_back(until_closed(line))["bytes"] == 90_000
        assert sent_back(raw(port, head(content_length=90_000) + b"x" * 90_000))["bytes"] == 90_000


def test_connections_are_bounded() -> None:
    """One more than there may be is told so, and let in once another has left."""
    with served(limits=Limits(connections=4)) as port:
        lines = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(4)]
        time.sleep(0.3)
        assert told(raw(port, head("/health", **GET)))[1]["code"] == "busy"
        for line in lines:
            line.close()
        time.sleep(0.3)
        assert sent_back(raw(port, head("/health", **GET)))


def test_one_request_hidden_in_another_is_not_answered(port: int) -> None:
    """Length and parts that do not agree, as a proxy in front and the server behind it would read differently."""
    hidden = b"GET /hidden HTTP/1.1\r\nhost: localhost\r\n\r\n"
    for first in (
        head(content_length=4, transfer_encoding="chunked") + b"0\r\n\r\n",
        head(content_length=[0, len(hidden)]),
        head(content_length=None, transfer_encoding="xchunked"),
        head(content_length=None, **{"transfer-encoding ": "chunked"}) + b"0\r\n\r\n",
    ):
        answer = raw(port, first + hidden)
        assert answer.count(b"HTTP/1.1") == 1
        assert answer.startswith(b"HTTP/1.1 400")
        assert b"hidden" not in answer


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "Expecting value"),
        (b"[]", "an object is needed"),
        (b"\xff\xfe{}", "not UTF-8"),
        (b'{"a": NaN}', "NaN is no number"),
        (b'{"a": 1e999}', "too large for a number"),
        (b'{"a": ' + b"9" * 5000 + b"}", "too large for a number"),
        (b'{"a": 1, "a": 2}', "the name 'a' twice"),
        (b'{"a": "\\ud800"}', "half of a surrogate pair"),
        (b'{"a":' + b"[" * 70 + b"]" * 70 + b"}", "deeper than 64"),
        (b'{"a":' * 99_000 + b"1" + b"}" * 99_000, "deeper than 64"),
        (b'{"a":[' + b"[]," * 60_000 + b"[]]}", "more than 100,000 values"),
        (b'",' * MEBIBYTE, "more than 100,000 values"),
        (b'{"a": 1} {"b": 2}', "Extra data"),
    ],
)
def test_bodies_that_are_no_json(body: bytes, says: str) -> None:
    with pytest.raises(Refused, match=says) as caught:
        read_json(body, Limits())
    assert caught.value.status == 400
    assert len(caught.value.message) < 500


def test_texts_may_hold_any_number_of_commas() -> None:
    text = 'a, [b], {c}, \\"d\\", ' * 20_000
    assert len(read_json(b'{"a": "' + text.encode() + b'"}', Limits())["a"]) == len(text) - 2 * 20_000
