"""How much one request, and all of them together, may ask for; counted before anything is decoded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from vtokens.core.errors import shorten
from vtokens.core.reading import DEPTH, MEBIBYTE
from vtokens.serve.errors import Refused


@dataclass(frozen=True)
class Limits:
    """The bounds of a server, each with a default that ordinary use does not meet.

    Attributes:
        header: bytes of the request's line and headers.
        header_seconds: until they must be there, from the connection or the answer before on.
        path: characters of the path and of what follows a question mark.
        connections: open at once.
        body: bytes.
        body_seconds: until it must be there, from the end of the headers on.
        bodies: bytes of bodies held at once, of all requests that have not been answered.
        send_seconds: that a client may leave a part of the answer unread.
        values: numbers, texts, lists and objects in a body.
        depth: lists and objects inside each other.
        messages: of a conversation.
        parts: of all its messages.
        text: characters of all its texts.
        pictures: of all its messages.
        pixels: of one picture, or of a frame.
        all_pixels: of all pictures and frames of a request.
        videos: of all its messages.
        frames: taken of each video.
        packets: of a video file, which is one for each of its frames: 30,000 are 16 minutes at 30 a second.
        media: bytes of a picture or a video behind a URL.
        media_seconds: until they must be there.
        prompt_tokens: fed to the model, as the processor made them.
        new_tokens: generated, and what is taken where a request does not say.
        default_new_tokens: where a request does not say.
        seconds: of the model's time and of waiting for it.
    """

    header: int = 16 * 1024
    header_seconds: float = 10.0
    path: int = 2048
    connections: int = 512
    body: int = 32 * MEBIBYTE
    body_seconds: float = 30.0
    bodies: int = 256 * MEBIBYTE
    send_seconds: float = 60.0
    values: int = 100_000
    depth: int = DEPTH
    messages: int = 256
    parts: int = 512
    text: int = 1_000_000
    pictures: int = 16
    pixels: int = 50_000_000
    all_pixels: int = 150_000_000
    videos: int = 2
    frames: int = 32
    packets: int = 30_000
    media: int = 24 * MEBIBYTE
    media_seconds: float = 20.0
    prompt_tokens: int = 32_768
    new_tokens: int = 4096
    default_new_tokens: int = 512
    seconds: float = 300.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            kind = float if isinstance(field.default, float) else int
            numbers = int | float if kind is float else int
            if isinstance(value, bool) or not isinstance(value, numbers):
                raise TypeError(f"{field.name}={shorten(value)} is not allowed: a number is")
            if not 0 < value < math.inf:
                raise ValueError(f"{field.name}={shorten(value)} is not allowed: a number above 0 is")
        if self.depth > DEPTH:
            raise ValueError(f"depth={self.depth} is not allowed: at most {DEPTH} is")
        if self.default_new_tokens > self.new_tokens:
            object.__setattr__(self, "default_new_tokens", self.new_tokens)


def check_chat(body: dict[str, Any], limits: Limits) -> None:
    """Refuse a chat request of another shape than messages of parts, and one that asks for too much.

    It counts what is there; what texts and URLs hold is looked at by who reads them.

    Raises:
        Refused: 400, with the part of the request it is about.
    """
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _bad("messages", messages, "a list of one message or more")
    _most("messages", len(messages), limits.messages, "messages", "messages")
    parts = texts = 0
    seen = {"image_url": 0, "video_url": 0}
    for number, message in enumerate(messages):
        name = f"messages[{number}]"
        if not isinstance(message, dict):
            raise _bad(name, message, "an object with role and content")
        content = message.get("content")
        if content is None or isinstance(content, str):
            texts += len(content or "")
            continue
        if not isinstance(content, list):
            raise _bad(f"{name}.content", content, "a text or a list of parts")
        parts += len(content)
        _most("parts", parts, limits.parts, "parts of messages", f"{name}.content")
        for place, part in enumerate(content):
            here = f"{name}.content[{place}]"
            kind = _kind(part, here)
            if kind in seen:
                seen[kind] += 1
            texts += len(part["text"]) if kind == "text" else 0
    _most("pictures", seen["image_url"], limits.pictures, "pictures", "messages")
    _most("videos", seen["video_url"], limits.videos, "videos", "messages")
    _most("text", texts, limits.text, "characters of text", "messages")
    _check_lists(body)
    new_tokens(body, limits)


def check_prompt(tokens: int, limits: Limits) -> None:
    """Refuse a prompt of more tokens than are fed; raises `Refused` with 400."""
    if tokens > limits.prompt_tokens:
        raise Refused(
            400,
            f"the prompt has {tokens:,} tokens with its pictures: at most {limits.prompt_tokens:,} are allowed",
            code="context_length_exceeded",
            param="messages",
        )


def new_tokens(body: dict[str, Any], limits: Limits) -> int:
    """How many tokens a request wants at most: `max_completion_tokens`, else `max_tokens`, else the default.

    Raises:
        Refused: 400 for no whole number, one below 1 or above the bound.
    """
    for name in ("max_completion_tokens", "max_tokens"):
        value = body.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= limits.new_tokens:
            raise _bad(name, value, f"a whole number from 1 to {limits.new_tokens:,}")
        return value
    return limits.default_new_tokens


def _kind(part: Any, here: str) -> str:
    """The type of a part of a message, which holds what that type says."""
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        raise _bad(here, part, "an object with a type")
    kind: str = part["type"]
    if kind == "text" and not isinstance(part.get("text"), str):
        raise _bad(f"{here}.text", part.get("text"), "a text")
    if kind in ("image_url", "video_url"):
        url = part.get(kind)
        if not isinstance(url, dict) or not isinstance(url.get("url"), str):
            raise _bad(f"{here}.{kind}", url, 'an object {"url": "data:..."}')
    return kind


_LISTS = (("stop", 16, 1000), ("tools", 128, None), ("logit_bias", 1024, None))
"""Of a body: how many entries, and how many characters a text may have."""


def _check_lists(body: dict[str, Any]) -> None:
    for name, most, characters in _LISTS:
        value = body.get(name)
        if isinstance(value, list | dict):
            _most(name, len(value), most, f"entries of {name}", name)
        texts: Sequence[Any] = value if isinstance(value, list) else [value]
        if characters and any(isinstance(one, str) and len(one) > characters for one in texts):
            raise _bad(name, max(map(str, texts), key=len), f"texts of at most {characters:,} characters")


def _most(what: str, count: int, most: int, name: str, param: str) -> None:
    if count > most:
        message = f"the request has {count:,} {name}: at most {most:,} are allowed"
        raise Refused(400, message, code=f"too_many_{what}", param=param)


def _bad(param: str, value: object, allowed: str) -> Refused:
    given = "is missing" if value is None else f"is {shorten(value, 80)}"
    return Refused(400, f"{param} {given}: {allowed} is allowed", code="invalid_value", param=param)
