"""What a client may show: pictures by data URL and from listed hosts, and all that is refused; over genuine sockets."""

from __future__ import annotations

import asyncio
import base64
import resource
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

from tests.serve.bombs import gif, png, saved, scans, text_bomb, url, webp
from tests.serve.running import run as wait_for
from tests.video.files import drawn, write
from vtokens.core.reading import MEBIBYTE
from vtokens.serve.errors import Refused
from vtokens.serve.hosts import Hosts
from vtokens.serve.limits import Limits, check_chat, check_prompt, new_tokens
from vtokens.serve.media import Media

LIMITS = Limits(media=2 * MEBIBYTE, media_seconds=1.0, pixels=4_000_000, all_pixels=6_000_000, frames=4, packets=200)
RED = (200, 30, 60)


def part(where: str, kind: str = "image_url") -> dict[str, Any]:
    """A picture or a video as a client sends it."""
    return {"type": kind, kind: {"url": where}}


def load(*parts: dict[str, Any], limits: Limits = LIMITS, **options: Any) -> list[dict[str, Any]]:
    """The parts of one message, loaded."""
    media = Media(limits, **options)
    try:
        messages = [{"role": "system", "content": "see"}, {"role": "user", "content": list(parts)}]

        async def opened() -> list[dict[str, Any]]:
            async with media.opened(messages) as found:
                return found

        found = wait_for(opened())
        assert found[0] == messages[0]
        assert messages[1]["content"] == list(parts)
        return found[1]["content"]
    finally:
        media.close()


def refused(*parts: dict[str, Any], **options: Any) -> Refused:
    """Why they are not."""
    with pytest.raises(Refused) as caught:
        load(*parts, **options)
    error = caught.value
    assert error.status == 400
    assert error.param
    assert error.param.startswith("messages[1].content[")
    assert len(error.message) < 700
    assert " at 0x" not in error.message  # of an object's address
    assert "/tmp" not in error.message
    return error


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_pictures_come_as_data(kind: str) -> None:
    """Whatever type the URL claims, and with text beside them."""
    for claim in (f"image/{kind.lower()}", "image/png", "image/jpeg", "application/octet-stream", "IMAGE/png;a=b"):
        text = {"type": "text", "text": "what is it?"}
        found = load(text, part(url(saved(40, 30, kind), claim)))
        assert found[0] == text
        image = found[1]["image"]
        assert (found[1]["type"], image.mode, image.size) == ("image", "RGB", (40, 30))
        assert np.abs(np.asarray(image).astype(int) - RED).max() <= 4


def test_a_picture_is_turned_as_its_camera_was_held() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    [found] = load(part(url(saved(40, 30, "JPEG", exif=exif), "image/jpeg")))
    assert found["image"].size == (30, 40)


DATA = base64.b64encode(saved()).decode()


@pytest.mark.parametrize(
    ("where", "code", "says"),
    [
        ("data:image/png;base64,", "bad_picture", "holds no bytes"),
        (f"data:image/png;base64,{DATA[:-3]}", "bad_picture", "base64 is damaged"),
        (f"data:image/png;base64,{DATA[:40]}\n{DATA[40:]}", "bad_picture", "base64 is damaged"),
        (f"data:image/png;base64,{DATA[:40]}={DATA[40:]}", "bad_picture", "base64 is damaged"),
        (f"data:image/png;base64,{DATA}====", "bad_picture", "base64 is damaged"),
        (f"data:image/png;base64,{DATA[:40]}ä{DATA[40:]}", "bad_picture", "base64 is damaged"),
        (f"data:image/png;base64,{DATA[:60]}", "bad_picture", "read"),
        (f"data:image/png,{DATA}", "bad_picture", "is no data:image/...;base64"),
        (f"data:text/html;base64,{DATA}", "bad_picture", "is no data:image/...;base64"),
        (f"data:video/mp4;base64,{DATA}", "bad_picture", "is no data:image/...;base64"),
        (DATA, "bad_url", "is not allowed: data:image"),
        ("", "bad_url", "is no plain URL"),
        (url(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "bad_picture", "no picture that is read here: PNG, JPEG"),
        (url(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "bad_picture", "no picture that is read here"),
        (url(saved(8, 8, "TIFF")), "bad_picture", "no picture that is read here"),
        (url(b"\0" * 100), "bad_picture", "no picture that is read here"),
        (url(bytes(3 * MEBIBYTE)), "bad_picture", "more than 2,097,152 bytes"),
        ("file:///etc/passwd", "bad_url", "is not allowed"),
        ("/etc/passwd", "bad_url", "is not allowed"),
        ("ftp://images.example.org/a.png", "bad_url", "is not allowed"),
        ("gopher://127.0.0.1:70/", "bad_url", "is not allowed"),
        ("https://images.example.org/a.png", "host_not_allowed", "none are, so send the bytes"),
    ],
)
def test_what_is_no_picture(where: str, code: str, says: str) -> None:
    error = refused({"type": "text", "text": ""}, part(where))
    assert error.code == code
    assert says in error.message
    assert error.param == "messages[1].content[1].image_url.url"


@pytest.mark.parametrize(
    "data",
    [
        png(50_000, 50_000), png(2001, 2000), png(1 << 30, 1), webp(16_384, 16_384), webp(1 << 14, 1 << 14, b"VP8L"),
        webp(16_000, 16_000, b"VP8 "), gif(60_000, 60_000), gif(8, 8, (60_000, 60_000)), gif(60_000, 60_000, (8, 8), 9),
        b"BM" + bytes(12) + (40).to_bytes(4, "little") + (60_000).to_bytes(4, "little") * 2
        + b"\x01\0\x18\0" + bytes(24),
    ],
)  # fmt: skip
def test_bombs_are_refused_by_their_headers(data: bytes) -> None:
    """Pixels are counted before memory is taken for them."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert refused(part(url(data))).code == "too_many_pixels"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024  # KiB


def test_bombs_of_other_kinds() -> None:
    """Scans without end, a comment that unpacks, and a picture that is a line."""
    begun = time.process_time()
    assert "more than 100 scans" in refused(part(url(scans(2000)))).message
    assert load(part(url(scans(5))))[0]["image"].size == (64, 64)
    assert refused(part(url(text_bomb()))).code == "bad_picture"
    assert "at most 200 times the other" in refused(part(url(saved(1000, 4)))).message
    assert time.process_time() - begun < 5


def test_the_first_picture_may_have_what_the_environment_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    """PIL's own limit, here 2,000 pixels, is no longer looked at when the server opens a picture."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert refused(part(url(saved(64, 64)))).code == "too_many_pixels"
    monkeypatch.setenv("VTOKENS_MAX_PIXELS", "4096")
    assert load(part(url(saved(64, 64))))[0]["image"].size == (64, 64)
    assert refused(part(url(saved(64, 65)))).code == "too_many_pixels"


def test_pixels_of_a_request_are_counted() -> None:
    whole = part(url(saved(2000, 2000)))
    assert len(load(whole, part(url(saved(1000, 2000))))) == 2
    error = refused(whole, part(url(saved(1000, 2001))))
    assert (error.code, error.param) == ("too_many_pixels", "messages[1].content[1].image_url.url")
    assert "with what came before it in the request, at most 2,000,000" in error.message


class Answers(BaseHTTPRequestHandler):
    """A genuine host on this machine; the path says what it answers, and what it was asked is remembered."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(f"{self.headers['Host']} {self.path}")
        name = self.path.partition("?")[0]
        if name.startswith("/to"):
            self.send_response(302)
            self.send_header(
                "Location", self.headers["Host"].join(["http://", "/a.png"]) if name == "/to" else "file:///etc/passwd"
            )
            return self.end_headers()
        self.send_response(200)
        self.send_header("Content-Type", "text/html" if name == "/page" else "image/png")
        self.end_headers()
        if name == "/endless":
            for _ in range(1000):
                self.wfile.write(bytes(MEBIBYTE))
        if name == "/slow":
            for byte in saved()[:60]:
                self.wfile.write(bytes([byte]))
                time.sleep(0.1)
        self.wfile.write(saved(64, 48))

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""


@pytest.fixture(scope="module")
def host() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.handle_error = lambda *_: None  # those that we leave in the middle
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def test_a_listed_host_is_asked(host: int) -> None:
    allowed = {"hosts": [f"http://localhost:{host}"], "private": True}
    parts = [part(f"http://{name}:{host}/a.png?b={name}") for name in ("localhost", "LocalHost")]
    assert [one["image"].size for one in load(*parts, **allowed)] == [(64, 48)] * 2
    assert f"localhost:{host} /a.png?b=localhost" in Answers.asked
    for path, says in (("/to", "leads on to another URL"), ("/to-file", "leads on to another URL"),
                       ("/page", "is text/html"), ("/endless", "more than 2,097,152 bytes"),
                       ("/slow", "takes longer than is allowed")):  # fmt: skip
        error = refused(part(f"http://localhost:{host}{path}"), **allowed)
        assert error.code == "not_fetched"
        assert says in error.message
    closed = socket.create_server(("127.0.0.1", 0))
    port = closed.getsockname()[1]
    closed.close()
    assert (
        refused(part(f"http://localhost:{port}/"), hosts=[f"http://localhost:{port}"], private=True).code
        == "not_fetched"
    )


def test_a_listed_host_at_a_private_address_is_not_asked(host: int) -> None:
    count = len(Answers.asked)
    error = refused(part(f"http://localhost:{host}/a.png"), hosts=[f"http://localhost:{host}"])
    assert error.code == "not_fetched"
    assert "no public address" in error.message
    assert "--private-urls" not in error.message
    assert len(Answers.asked) == count


def test_a_name_that_leads_elsewhere_the_next_time_is_asked_once(host: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver that gives a public address to who checks, and a private one to who asks again."""
    genuine, told, tried = socket.getaddrinfo, [], []

    def resolver(name: str, port: Any, *args: Any, **more: Any) -> Any:
        if name != "images.example.org":
            return genuine(name, port, *args, **more)
        told.append("198.51.100.7" if len(told) > 9 else "93.184.216.34" if not told else "127.0.0.1")
        return genuine(told[-1], port, *args, **more)

    def connect(address: tuple[str, int], *_: Any, **__: Any) -> Any:
        tried.append(address[0])
        raise OSError("unreachable from here")

    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    with monkeypatch.context() as patch:
        patch.setattr(socket, "create_connection", connect)
        refused(part(f"http://images.example.org:{host}/a.png"), hosts=[f"http://images.example.org:{host}"])
    assert tried == ["93.184.216.34"]
    assert told == ["93.184.216.34"]
    count = len(Answers.asked)
    assert (
        "no public address"
        in refused(part(f"http://images.example.org:{host}/a.png"), hosts=[f"http://images.example.org:{host}"]).message
    )
    assert len(Answers.asked) == count


ODD = [
    "http://127.0.0.1/", "http://127.1/", "http://2130706433/", "http://0x7f000001/", "http://0x7f.1/",
    "http://0177.0.0.1/",
    "http://017700000001/", "http://[::1]/", "http://[::ffff:127.0.0.1]/", "http://[::ffff:7f00:1]/", "http://[::]/",
    "http://0/", "http://0.0.0.0/", "http://169.254.169.254/latest/meta-data", "http://[fe80::1%25eth0]/",
    "http://localhost/", "http://localhost./", "http://images.example.org./", "http://images.example.org.evil.org/",
    "http://images.example.org@127.0.0.1/", "http://127.0.0.1@images.example.org/", "http://a:b@images.example.org/",
    "http://images.example.org:80@127.0.0.1/", "http://images.example.org\\@127.0.0.1/", "http:\\\\127.0.0.1/",
    "http://127.0.0.1\\.images.example.org/", "http://127.0.0.1%2f.images.example.org/",
    "http://127.0.0.1#@images.example.org/",
    "http://127.0.0.1?@images.example.org/", "http:///127.0.0.1/", "http:127.0.0.1/", "http://①②⑦.⓪.⓪.①/",
    "http://１２７.0.0.1/", "http://127。0。0。1/", "http://loc\u00adalhost/", "http://images.example.org:99999/",
    "http://images.example.org:0/", "http://images.example.org:8080/", "http://images.example.org:/../",
    "http://evil-images.example.org/", "http://.images.example.org/", "http://images..example.org/",
    "https://images.example.org/",
    " http://images.example.org/", "http://images.example.org/ a", "http://images.example.org/\r\nHost: x",
    "http://*.example.org/",
    "http://images.example.org/\0", "HTTP+file://images.example.org/", "jar:http://images.example.org!/",
    "//images.example.org/",

]  # fmt: skip


@pytest.mark.parametrize("where", ODD)
def test_odd_spellings_are_refused(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the list of hosts alone: no name is looked up, and nothing is connected to."""

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("asked")

    monkeypatch.setattr(socket, "getaddrinfo", never)
    monkeypatch.setattr(socket, "create_connection", never)
    options: dict[str, Any] = {"hosts": ["http://images.example.org"], "private": True}
    assert refused(part(where), **options).code in ("bad_url", "host_not_allowed")


def test_which_hosts_are_listed() -> None:
    hosts = Hosts(
        ["a.example.org", "*.pictures.example.org", "http://b.example.org:8080", "https://[2001:db8::1]:444/"]
    )
    for where in ("https://a.example.org/x?y=%20z", "https://A.example.org:443/", "https://x.pictures.example.org/",
                  "https://x.y.pictures.example.org/", "http://b.example.org:8080/",
                  "https://[2001:DB8::1]:444/"):  # fmt: skip
        assert hosts.plain(where, "") == where.lower().replace(":443/", "/")
    for where in ("http://a.example.org/", "https://pictures.example.org/", "https://xpictures.example.org/",
                  "http://b.example.org/", "https://b.example.org:8080/", "https://[2001:db8::1]/"):  # fmt: skip
        with pytest.raises(Refused, match="are not fetched here: those of listed hosts are"):
            hosts.plain(where, "")
    with pytest.raises(Refused, match=r"Did you mean 'a\.example\.org'"):
        hosts.plain("https://a.exmple.org/", "")
    for entry in ("", "ftp://a.org", "a.org/b", "me@a.org", "a..org", "http://", "a.org:99999", "**.a.org", "a b"):
        with pytest.raises(ValueError, match="names no host"):
            Hosts([entry])


def test_videos_come_as_frames(tmp_path: Path) -> None:
    data = Path(write(tmp_path / "a.mp4", drawn(12))).read_bytes()
    found = load(part(url(data, "video/mp4"), "video_url"))
    assert found[0]["type"] == "video"
    assert len(found[0]["clip"].frames) == 4
    for bad, says in (
        (data[: len(data) // 2], "cannot be read"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n", "no video that is read here"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "no video that is read here"),
        (b"\x1aE\xdf\xa3<MPD profiles='dash:profile:isoff-on-demand:2011'><BaseURL>file:///etc/", "cannot be read"),
        (saved(), "no video that is read here"),
        (data[:64] + bytes(1000), "cannot be read"),
    ):
        error = refused(part(url(bad, "video/mp4"), "video_url"))
        assert error.code == "bad_video"
        assert says in error.message
    for limits, says in ((Limits(packets=11), "more than 11 frames"), (Limits(pixels=100), "cannot be read"),
                         (Limits(all_pixels=1000), "cannot be read"),
                         (Limits(media_seconds=1e-6), "longer to read")):  # fmt: skip
        assert says in refused(part(url(data, "video/mp4"), "video_url"), limits=limits).message


def test_the_loop_goes_on_while_pictures_are_decoded() -> None:
    """It turns many times while one is read: were it read on the loop, hardly once."""
    file = BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (1200, 1200, 3), np.uint8)).save(
        file, "PNG", compress_level=1
    )
    messages = [{"role": "user", "content": [part(url(file.getvalue()))]}]

    async def turns() -> int:
        media, count = Media(Limits(all_pixels=10**9)), 0
        loading = asyncio.create_task(media.load(messages))
        while not loading.done():
            await asyncio.sleep(0)
            count += 1
        await loading
        media.close()
        return count

    assert wait_for(turns()) > 20


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": {}}, "messages"),
        ({"messages": ["a"]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"content": ["a"]}]}, "messages[0].content[0]"),
        ({"messages": [{"content": [{"type": 5}]}]}, "messages[0].content[0]"),
        ({"messages": [{"content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"content": [{"type": "image_url", "image_url": "x"}]}]}, "messages[0].content[0].image_url"),
        ({"messages": [{"content": [{"type": "video_url"}]}]}, "messages[0].content[0].video_url"),
        ({"messages": [{"content": "a"}] * 257}, "messages"),
        ({"messages": [{"content": [{"type": "text", "text": ""}] * 513}]}, "messages[0].content"),
        ({"messages": [{"content": [part("data:")] * 17}]}, "messages"),
        ({"messages": [{"content": [part("data:", "video_url")] * 3}]}, "messages"),
        ({"messages": [{"content": "a" * 1_000_001}]}, "messages"),
        ({"messages": [{"content": "a"}], "stop": ["a"] * 17}, "stop"),
        ({"messages": [{"content": "a"}], "stop": ["a" * 1001]}, "stop"),
        ({"messages": [{"content": "a"}], "logit_bias": {str(one): 1 for one in range(1025)}}, "logit_bias"),
        ({"messages": [{"content": "a"}], "tools": [{}] * 129}, "tools"),
        *(({"messages": [{"content": "a"}], name: value}, name) for name in ("max_tokens", "max_completion_tokens")
          for value in (0, -1, 4097, 1.5, True, "5", 10**30)),
    ],
)  # fmt: skip
def test_requests_that_ask_for_too_much(body: dict[str, Any], param: str) -> None:
    with pytest.raises(Refused) as caught:
        check_chat(body, Limits())
    assert (caught.value.status, caught.value.param) == (400, param)
    assert len(caught.value.message) < 400


def test_what_is_within_the_limits() -> None:
    texts = [{"type": "text", "text": "a"}, part("data:"), {"type": "other"}]
    check_chat({"messages": [{"content": texts}, {"content": None}, {"content": "a"}], "stop": "a"}, Limits())
    assert new_tokens({"max_tokens": 5, "max_completion_tokens": 7}, Limits()) == 7
    assert new_tokens({"max_tokens": None}, Limits(new_tokens=100)) == 100
    check_prompt(32_768, Limits())
    with pytest.raises(Refused, match="32,769 tokens"):
        check_prompt(32_769, Limits())
    for wrong in ({"body": 0}, {"seconds": float("inf")}, {"frames": 1.5}, {"pixels": True}, {"depth": 65}):
        with pytest.raises((TypeError, ValueError), match=next(iter(wrong))):
            Limits(**wrong)
