"""One request as a processor wants it: the prompt with its placeholders, and the media they stand for."""

from __future__ import annotations

from typing import Any

from PIL import Image

from vtokens.core.prompts import chat_text
from vtokens.eval.lmms.media import clip, picture
from vtokens.loading.media import MediaPrompt, place_clip
from vtokens.loading.processors import refuse_videos
from vtokens.video import Clip

_PLACEHOLDER = "<image>"  # what tasks write where a picture is meant, whatever the model calls it


def media_prompt(processor: Any, messages: Any, frames: int) -> MediaPrompt:
    """Open the media of a chat and write its prompt, ready for the answer to follow.

    A processor without a video part is given the frames of a video as pictures.

    Args:
        processor: the model's.
        messages: lmms-eval's `ChatMessages`.
        frames: the most to take from each video.

    Raises:
        OSError, TypeError, ValueError: media that cannot be opened, or audio.
        ImportError: a video, for a model that sees videos, where torchvision is missing.
    """
    images: list[Image.Image] = []
    clips: list[Clip] = []
    turns = []
    for message in messages.messages:
        parts: list[dict[str, str]] = []
        for part in message.content:
            if part.type == "text":
                parts.append({"type": "text", "text": part.text})
            elif part.type == "image":
                images.append(picture(part.url))
                parts.append({"type": "image"})
            elif part.type == "video":
                refuse_videos(processor)
                parts += place_clip(processor, clip(part.url, frames, part.start_time, part.end_time), images, clips)
            else:
                raise ValueError(f"{part.type} in a prompt is not supported: pictures, videos and text are")
        turns.append({"role": message.role, "content": _placed(parts)})
    return MediaPrompt(chat_text(processor, turns), images, clips)


def _placed(parts: list[dict[str, str]]) -> list[dict[str, str]]:
    """Put pictures where the text of a turn says '<image>', if it does so once for each; or take that text away."""
    pictures = [part for part in parts if part["type"] == "image"]
    said = sum(part.get("text", "").count(_PLACEHOLDER) for part in parts)
    if not said:
        return parts
    if said != len(pictures):
        return [part | {"text": part["text"].replace(_PLACEHOLDER, "")} if "text" in part else part for part in parts]
    placed: list[dict[str, str]] = []
    for part in parts:
        if part["type"] == "image":
            continue
        for number, text in enumerate(part.get("text", "").split(_PLACEHOLDER)):
            placed += [{"type": "image"}] * (number > 0)
            placed += [{"type": "text", "text": text}] * bool(text)
        placed += [part] * ("text" not in part)
    return placed
