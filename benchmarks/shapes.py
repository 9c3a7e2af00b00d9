"""The models that are timed: published shapes with random weights, and prompts with 576 visual tokens a picture."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from vtokens.adapters import adapter_for
from vtokens.eval.presets import preset
from vtokens.eval.shapes import random_model, resize
from vtokens.eval.synthetic import prompts

SHAPES: dict[str, tuple[str, int, int | None]] = {
    # A quarter of every width and half the depth: 128 and 64 channels a head and 576 visual tokens stay.
    "llava-300m": ("llava-1.5-7b", 4, 16),
    "llava-1.5-7b": ("llava-1.5-7b", 1, None),
    "qwen2.5-vl-7b": ("qwen2.5-vl-7b", 1, None),
    "llava-quick": ("llava-1.5-7b", 8, 4),
    "qwen-quick": ("qwen2.5-vl-7b", 4, 4),
}
"""Name -> preset, divisor of its widths, decoder layers."""


def build(shape: str, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """The model of `SHAPES[shape]` with random weights (seed 0), in evaluation mode; it never stops by itself."""
    name, scale, layers = SHAPES[shape]
    config, _ = resize(preset(name), scale, layers)
    return random_model(config, device, dtype, attn_implementation="sdpa")


def prompt(model: PreTrainedModel, text: tuple[int, ...], pictures: int = 1) -> dict[str, torch.Tensor]:
    """A left-padded batch of noise: in each row `pictures` of 576 visual tokens between `text` text tokens."""
    return prompts(adapter_for(model), text, pictures=pictures)
