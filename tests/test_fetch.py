"""Files behind URLs: what is fetched, and what is refused before or while it comes."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from vtokens.core.fetch import _public, fetch, is_url

PICTURE = BytesIO()
Image.new("RGB", (96, 96), (200, 10, 10)).save(PICTURE, "PNG")
DATA = PICTURE.getvalue()


class Answers(BaseHTTPRequestHandler):
    """A genuine host on this machine; the path says what it answers."""

    def do_GET(self) -> None:
        name = self.path.partition("?")[0]
        if name == "/elsewhere":
            return self.answer(302, {"Location": "/a%20b.png?c=d"})
        if name == "/circle":
            return self.answer(302, {"Location": "/circle"})
        if name == "/file":
            return self.answer(302, {"Location": "file:///etc/passwd"})
        if name == "/gone":
            return self.answer(404, {})
        kind = {"/page": "text/html; charset=utf-8", "/bytes": "application/octet-stream"}.get(name, "image/png")
        told = {"/large": "9999999999", "/cut": str(len(DATA) + 5)}.get(name, str(len(DATA)))
        headers = {} if name == "/untold" else {"Content-Length": told}
        self.answer(200, headers | ({} if name == "/untyped" else {"Content-Type": kind}))
        if name == "/slow":
            for byte in DATA[:40]:
                self.wfile.write(bytes([byte]))
                time.sleep(0.1)
        self.wfile.write(DATA * (100 if name == "/untold" else 1))

    def answer(self, code: int, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.handle_error = lambda *_: None  # those that we leave in the middle
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("path", ["/a.png", "/elsewhere", "/bytes", "/a b.png", "/ä.png?q=ö&x=1"])
def test_a_picture_comes_whole(host: str, path: str, tmp_path: Path) -> None:
    fetch(host + path, tmp_path / "a", private=True)
    assert (tmp_path / "a").read_bytes() == DATA


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/page", "is text/html: a picture or a video"),
        ("/untyped", "is no type: a picture or a video"),
        ("/large", r"has 9,999,999,999 bytes: at most 1,000 are fetched"),
        ("/untold", "has more than 1,000 bytes"),
        ("/cut", r"bytes came"),
        ("/gone", "the host answers 404"),
        ("/circle", "leads on more than 5 times"),
        ("/file", "'file:///etc/passwd' is not allowed: http and https are"),
    ],
)
def test_what_does_not_come(host: str, path: str, says: str, tmp_path: Path) -> None:
    assert len(DATA) < 1000
    with pytest.raises((OSError, ValueError), match=says):
        fetch(host + path, tmp_path / "a", private=True, most=1000)


def test_a_host_that_never_ends_is_left(host: str, tmp_path: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(OSError, match="cannot fetch"):
        fetch(f"{host}/slow", tmp_path / "a", private=True, seconds=0.5)
    assert time.monotonic() - begun < 3


def test_a_handshake_that_never_ends_is_left(tmp_path: Path) -> None:
    """A byte now and then of a record of TLS that is told to be long: no read runs into the socket's own limit."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def trickle() -> None:
            line, _ = server.accept()
            with line, contextlib.suppress(OSError):
                for byte in b"\x16\x03\x03\x40\x00" + bytes(45):
                    line.sendall(bytes([byte]))
                    time.sleep(0.1)

        threading.Thread(target=trickle, daemon=True).start()
        begun = time.monotonic()
        with pytest.raises(OSError, match="cannot fetch"):
            fetch(f"https://127.0.0.1:{server.getsockname()[1]}/a.png", tmp_path / "a", private=True, seconds=0.5)
        assert time.monotonic() - begun < 3


def test_the_next_address_is_tried(host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a host's addresses the first may be one that nobody answers at, as where a machine has no IPv6."""
    port = int(host.rpartition(":")[2])
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in ("127.0.0.2", "127.0.0.1")]
    asked = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda name, *a, **k: found if name == "two" else asked(name, *a, **k))
    fetch(f"http://two:{port}/a.png", tmp_path / "a", private=True)
    assert (tmp_path / "a").read_bytes() == DATA
    found.pop()
    with pytest.raises(OSError, match=r"cannot fetch .*ConnectionRefusedError"):
        fetch(f"http://two:{port}/a.png", tmp_path / "a", private=True)


def test_own_addresses_are_refused(host: str, tmp_path: Path) -> None:
    port = host.rpartition(":")[2]
    for name in ("127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0x7f.1", "2130706433"):
        with pytest.raises((ValueError, OSError), match=r"no public address|no address is known"):
            fetch(f"http://{name}:{port}/a.png", tmp_path / "a")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("10.1.2.3", False),
        ("192.168.0.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::a00:1", False),
        ("2002:a00:1::", False),
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert _public(address) == public


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("ftp://a.org/b.png", "http and https are"),
        ("http://", "names no host"),
        ("http://a.org:99999/", "is no URL"),
        ("http://me:secret@a.org/b.png", "a URL with a user or a password is not allowed"),
    ],
)
def test_urls_that_are_not_allowed(url: str, says: str, tmp_path: Path) -> None:
    assert is_url(url)
    with pytest.raises(ValueError, match=says) as caught:
        fetch(url, tmp_path / "a")
    assert "secret" not in str(caught.value)


def test_paths_are_no_urls() -> None:
    assert not any(map(is_url, ("a.png", "/a/b.png", "C:\\a.png", "://a", "-", "")))
    assert is_url("HTTPS://a.org/b.png")
