"""SmolVLM: Idefics3 with a smaller tower and decoder; videos are frames, each an image."""

from __future__ import annotations

from vtokens.adapters.idefics3 import Idefics3
from vtokens.adapters.registry import register_adapter


@register_adapter("smolvlm")
class SmolVLM(Idefics3):
    """SmolVLM. A video's frames are pictures of their own."""

    examples = ("HuggingFaceTB/SmolVLM2-2.2B-Instruct",)
