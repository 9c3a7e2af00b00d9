"""One sample or a batch of them, as users give them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image


def samples(images: Any, prompt: Any) -> tuple[bool, list[list[Image.Image]], list[str]]:
    """Sort out what was given.

    Args:
        images: a picture or a list of them for a single prompt; for a batch, a list with one of these a prompt.
        prompt: text, or a list of texts for a batch.

    Returns:
        (single, images, prompts): whether it is a single sample, the pictures of each and the prompt of each.

    Raises:
        TypeError: a prompt that is no text.
        ValueError: pictures for another number of samples than there are prompts.
    """
    single = isinstance(prompt, str)
    prompts = [prompt] if single else list(prompt)
    for one in prompts:
        if not isinstance(one, str):
            raise TypeError(f"a prompt is text, got {one!r}")
    groups = [images] if single else list(images) if isinstance(images, Sequence) else [images]
    if len(groups) != len(prompts):
        raise ValueError(f"got pictures for {len(groups)} samples and {len(prompts)} prompts: equal numbers are needed")
    return single, [[group] if isinstance(group, Image.Image) else list(group or ()) for group in groups], prompts
