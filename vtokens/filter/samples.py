"""One sample or a batch of them, as users give them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from PIL import Image

from vtokens.images import as_image


def samples(images: Any, prompt: Any) -> tuple[bool, list[list[Image.Image]], list[str]]:
    """Sort out what was given.

    Args:
        images: a picture or a list of them for a single prompt; for a batch, a list with one of these a prompt. A
            picture is what `vtokens.images.as_image` takes.
        prompt: text, or a list of texts for a batch.

    Returns:
        (single, images, prompts): whether it is a single sample, the pictures of each, upright and RGB, and the prompt
        of each.

    Raises:
        TypeError: a prompt that is no text, or pictures that are none.
        ValueError: pictures for another number of samples than there are prompts, or an array that is no picture.
        OSError: a file that cannot be read.
    """
    single = isinstance(prompt, str)
    if not isinstance(prompt, Iterable):
        raise TypeError(f"a prompt is text, got {prompt!r}")
    prompts: list[str] = [str(prompt)] if single else list(prompt)
    for one in prompts:
        if not isinstance(one, str):
            raise TypeError(f"a prompt is text, got {one!r}")
    groups = [images] if single else list(images) if _several(images) else [images]
    if len(groups) != len(prompts):
        raise ValueError(f"got pictures for {len(groups)} samples and {len(prompts)} prompts: equal numbers are needed")
    return single, [_opened(number, group) for number, group in enumerate(groups)], prompts


def _several(images: Any) -> bool:
    return isinstance(images, Sequence) and not isinstance(images, str)


def _opened(number: int, group: Any) -> list[Image.Image]:
    if group is None or (_several(group) and not group):
        raise ValueError(f"images[{number}]={group!r} shows nothing: a picture is needed, or a list of them")
    return [as_image(one) for one in (group if _several(group) else [group])]
