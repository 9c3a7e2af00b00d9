"""Prompts with their pictures and videos, and the batch that a processor makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from vtokens.core.prompts import encode_prompts, question_prompt
from vtokens.loading.processors import refuse_videos
from vtokens.video import Clip
from vtokens.video.clip import arguments

Medium = Image.Image | Clip
"""A picture, or frames of a video."""


@dataclass(frozen=True)
class MediaPrompt:
    """A prompt and its media, in the order of their placeholders."""

    text: str
    images: list[Image.Image]
    clips: list[Clip]


def place_clip(processor: Any, clip: Clip, images: list[Image.Image], clips: list[Clip]) -> list[dict[str, str]]:
    """Add a video to the media of a prompt, as pictures where the processor has no video part; its parts of the chat.

    Raises:
        ImportError: the model sees videos, and torchvision, which prepares them, is missing.
    """
    refuse_videos(processor)
    if getattr(processor, "video_processor", None) is None:
        images += clip.images()
        return [{"type": "image"}] * len(clip.frames)
    clips.append(clip)
    return [{"type": "video"}]


def question_about(processor: Any, media: Sequence[Medium], text: str) -> MediaPrompt:
    """A question behind what is shown, or a prompt that has their places already.

    Raises:
        ImportError: the model sees videos, and torchvision, which prepares them, is missing.
        ValueError: `text` has places for another number of pictures or videos.
    """
    images: list[Image.Image] = []
    clips: list[Clip] = []
    kinds: list[str] = []
    for one in media:
        if isinstance(one, Clip):
            kinds += [part["type"] for part in place_clip(processor, one, images, clips)]
        else:
            images.append(one)
            kinds.append("image")
    return MediaPrompt(question_prompt(processor, text, kinds), images, clips)


def batch_inputs(processor: Any, prompts: Sequence[MediaPrompt], after: Sequence[str] | None = None) -> Any:
    """The processor's batch, padded on the left.

    Args:
        processor: the model's.
        prompts: one a row.
        after: text that follows each prompt.
    """
    texts = [p.text + tail for p, tail in zip(prompts, after or [""] * len(prompts), strict=True)]
    clips = [one for p in prompts for one in p.clips]
    more = arguments(clips) if clips else {}
    return encode_prompts(processor, texts, [p.images for p in prompts if p.images], **more)
