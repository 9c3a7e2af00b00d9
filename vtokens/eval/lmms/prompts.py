"""One request as a processor wants it: the prompt with its placeholders, and the media they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from vtokens.eval.lmms.media import Clip, clip, picture
from vtokens.loading.processors import refuse_videos

_PLACEHOLDER = "<image>"  # what tasks write where a picture is meant, whatever the model calls it


@dataclass(frozen=True)
class Prompt:
    """A prompt and its media, in the order of their placeholders."""

    text: str
    images: list[Image.Image]
    clips: list[Clip]


def prompt(processor: Any, messages: Any, frames: int) -> Prompt:
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
                video = clip(part.url, frames, part.start_time, part.end_time)
                if getattr(processor, "video_processor", None) is None:
                    images += video.images()
                    parts += [{"type": "image"}] * len(video.frames)
                else:
                    clips.append(video)
                    parts.append({"type": "video"})
            else:
                raise ValueError(f"{part.type} in a prompt is not supported: pictures, videos and text are")
        turns.append({"role": message.role, "content": _placed(parts)})
    return Prompt(_text(processor, turns), images, clips)


def encode(processor: Any, prompts: Sequence[Prompt], after: Sequence[str] | None = None) -> Any:
    """The processor's batch, padded on the left.

    Args:
        processor: the model's.
        prompts: one a row.
        after: text that follows each prompt.
    """
    texts = [p.text + tail for p, tail in zip(prompts, after or [""] * len(prompts), strict=True)]
    more: dict[str, Any] = {}
    if images := [p.images for p in prompts if p.images]:
        more["images"] = images
    if clips := [one for p in prompts for one in p.clips]:
        more |= {"videos": [c.frames for c in clips], "video_metadata": [c.metadata for c in clips]}
        more["do_sample_frames"] = False
    if begins(processor, texts[0]):
        more["add_special_tokens"] = False
    return processor(text=texts, padding=True, padding_side="left", return_tensors="pt", **more)


def begins(processor: Any, text: str) -> bool:
    """Whether the chat template wrote the token that the tokenizer would add at the beginning."""
    first = processor.tokenizer.bos_token
    return first is not None and text.startswith(first)


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


def _text(processor: Any, turns: list[dict[str, Any]]) -> str:
    template = getattr(processor, "chat_template", None) or getattr(processor.tokenizer, "chat_template", None)
    if template:
        text: str = processor.apply_chat_template(turns, chat_template=template, add_generation_prompt=True)
        return text
    parts = [part for turn in turns for part in turn["content"]]
    return "\n".join(part["text"] if "text" in part else getattr(processor, f"{part['type']}_token") for part in parts)
