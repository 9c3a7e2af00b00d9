"""Bodies of chats that are meant to cost a server its memory, its time or its secrets."""

from __future__ import annotations

import json
from typing import Any

from tests.serve.bombs import gif, png, saved, scans, text_bomb, url, webp
from vtokens.core.reading import MEBIBYTE


def chat(*parts: Any, **more: Any) -> bytes:
    """The body of a chat with these parts in one message."""
    return json.dumps({"messages": [{"role": "user", "content": list(parts)}], "max_tokens": 4} | more).encode()


def shown(where: str, kind: str = "image_url") -> dict[str, Any]:
    return {"type": kind, kind: {"url": where}}


def hostile() -> list[bytes]:
    """Bodies of which none is to be answered."""
    pictures = [
        png(50_000, 50_000),
        png(1 << 30, 1),
        gif(60_000, 60_000),
        gif(8, 8, (60_000, 60_000)),
        webp(16_000, 16_000),
        webp(16_384, 16_384, b"VP8L"),
        scans(500),
        text_bomb(),
        saved()[:50],
        b"",
        bytes(1000),
        b"<svg/>",
        b"GIF89a" + bytes(40),
        b"RIFF\xff\xff\xff\xffWEBPVP8X",
        b"\xff\xd8" + b"\xff\xe0\xff\xff" * 400,
        b"BM" + b"\xff" * 60,
    ]
    places = [
        "file:///etc/passwd",
        "/etc/passwd",
        "http://127.0.0.1/",
        "http://169.254.169.254/latest",
        "http://localhost:1/",
        "http://localhost:1\\@evil.org/",
        "http://[::ffff:127.0.0.1]/",
        "https://example.org/a.png",
        "http://0x7f.1/",
        "data:image/png;base64,AAA",
        "data:image/png;base64," + "A" * 5001,
        "data:,",
        "data:" + "x" * 9000,
        "",
        "gopher://localhost:1/",
        "http://" + "a" * 8000,
    ]
    videos = [
        b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"\0\0\0\x18ftypmp42" + bytes(500),
        b"\x1aE\xdf\xa3" + bytes(100),
        saved(),
    ]
    text = {"type": "text", "text": "is there a red circle?"}
    bodies = [chat(shown(url(one))) for one in pictures]
    bodies += [chat(shown(place, kind)) for place in places for kind in ("image_url", "video_url")]
    bodies += [chat(shown(url(one, "video/mp4"), "video_url")) for one in videos]
    bodies += [chat(*[text] * 10_000), chat(*[shown(url(saved()))] * 100), chat(*[shown(url(saved(1000, 900)))] * 3)]
    bodies += [
        chat(text, **{name: value})
        for name, value in {
            "max_tokens": 10**9,
            "n": 10**6,
            "temperature": -1,
            "top_p": 5,
            "stop": ["a"] * 999,
            "model": "a" * 9999,
            "seed": -1,
            "logit_bias": {str(one): 1 for one in range(5000)},
            "messages": "a",
            "nothing": 1,
            "top_logprobs": 10**6,
            "stream": "yes",
        }.items()
    ]
    bodies += [
        chat(text, vtokens=one)
        for one in (
            {"strategy": "(" * 3000},
            {"strategy": "fastw"},
            {"strategy": "__import__('os').getpid()"},
            {"keep": -1},
            {"keep": "x"},
            {"strategy": "fastv+" * 500 + "fastv"},
            {"filter": {"action": "x"}},
            {"filter": {"risk": 9, "threshold": 9}},
            5,
            {"strategy": "var(sinks='/dev/zero')"},
            {"strategy": "dymu(thresholds='/etc/passwd')"},
            {"kept": "x"},
            {"x": 1},
        )
    ]
    bodies += [
        b"",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"a":' * 50_000,
        b"[" * 900_000,
        b'{"a":[' + b"[]," * 200_000 + b"[]]}",
        b'"' * 900_000,
        b'{"messages":' + b"9" * 900_000 + b"}",
        b'{"messages": NaN}',
        b'{"messages":[],"messages":[]}',
        bytes(MEBIBYTE + 1),
        b'{"messages":[{"role":"user","content":"\\ud800"}]}',
        b" " * 1_000_000,
    ]
    return bodies
