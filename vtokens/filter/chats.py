"""Chats as prompts: turns as `apply_chat_template` takes them, with their pictures and videos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vtokens.core.errors import shorten
from vtokens.core.images import as_image
from vtokens.core.prompts import chat_text
from vtokens.filter.samples import grouped, several
from vtokens.loading.media import place_clip
from vtokens.video import Clip

Chat = Sequence[Mapping[str, Any]]
"""Turns {"role": "user", "content": ...}; content is text, or parts {"type": "image" | "video" | "text", ...}."""


def is_chat(prompt: Any) -> bool:
    """Whether a prompt is a chat: turns, and neither text nor a list of prompts."""
    return isinstance(prompt, Sequence) and not isinstance(prompt, str) and all(isinstance(t, Mapping) for t in prompt)


def opened(processor: Any, images: Any, prompt: Any) -> tuple[Any, Any]:
    """Pictures and prompts as a filter takes them: chats become texts with the places of their pictures.

    Args:
        processor: the model's.
        images: as of `HallucinationFilter.check`; None where the chats hold their pictures themselves ({"type":
            "image", "image": picture}). Pictures without a place in the chat are shown before its first question.
        prompt: text, a chat, or a list of these.

    Raises:
        TypeError: turns that are none, or pictures that are none.
        ValueError: another number of pictures than of places, or a chat that does not end with a question.
    """
    if isinstance(prompt, str) or not isinstance(prompt, Sequence) or not prompt:
        return images, prompt
    if is_chat(prompt):
        return _opened(processor, images, prompt)
    if not any(is_chat(one) for one in prompt):
        return images, prompt
    groups = [None] * len(prompt) if images is None else grouped(images, len(prompt))
    pairs = [_opened(processor, group, one) for group, one in zip(groups, prompt, strict=True)]
    return [media for media, _ in pairs], [text for _, text in pairs]


def _opened(processor: Any, images: Any, chat: Any) -> tuple[Any, Any]:
    if not is_chat(chat):
        return images, chat
    given = [] if images is None else list(images) if several(images) else [images]
    turns = [_turn(number, turn) for number, turn in enumerate(chat)]
    if not turns or turns[-1]["role"] != "user":
        raise ValueError("a chat ends with what the user asks: its last turn has another role")
    places = [part for turn in turns for part in turn["content"] if part["type"] in ("image", "video")]
    own = [part[part["type"]] for part in places if part.get(part["type"]) is not None]
    if given and own:
        raise ValueError("the chat holds pictures of its own, and others are given: one of the two is allowed")
    media = given or own
    if not places:
        first = next(turn for turn in turns if turn["role"] == "user")
        places = [{"type": "video" if isinstance(one, Clip) else "image"} for one in media]
        first["content"] = [*places, *first["content"]]
    if len(media) != len(places):
        raise ValueError(f"the chat has places for {len(places)} pictures and videos, and {len(media)} are given")
    shown = [one if isinstance(one, Clip) else as_image(one) for one in media]
    waiting = iter(shown)
    for turn in turns:
        parts: list[dict[str, Any]] = []
        for part in turn["content"]:
            if part["type"] == "text":
                parts.append(part)
                continue
            one = next(waiting)
            parts += place_clip(processor, one, [], []) if isinstance(one, Clip) else [{"type": "image"}]
        turn["content"] = parts
    return shown, chat_text(processor, turns)


def _turn(number: int, turn: Mapping[str, Any]) -> dict[str, Any]:
    role, content = turn.get("role"), turn.get("content")
    if role not in ("system", "user", "assistant"):
        raise ValueError(f"turn {number} has the role {role!r}: system, user or assistant is allowed")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, Sequence) or not all(isinstance(part, Mapping) for part in parts):
        raise TypeError(f"turn {number} says {shorten(content)}: text, or a list of parts, is needed")
    for part in parts:
        if part.get("type") not in ("text", "image", "video") or (part["type"] == "text" and "text" not in part):
            raise ValueError(f"turn {number} has the part {shorten(dict(part))}: text, image or video is allowed")
    return {"role": role, "content": [dict(part) for part in parts]}
