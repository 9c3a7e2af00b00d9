"""Batches of the right shape for any supported model, without a processor: noise for pictures, noise for words."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

from vtokens.adapters import Adapter
from vtokens.core.picture import side as edge
from vtokens.core.prompts import POSITION_KINDS

_WORDS = 30000
"""Words are drawn from so many first token ids, placeholders left out."""


def default_size(config: Any) -> tuple[int, int]:
    """(width, height) in pixels of the picture to profile with.

    What the tower takes where that is fixed; twice as wide and high where pictures are cut into crops, which gives
    LLaVA-NeXT its 2,880 visual tokens; 24 x 24 tokens where any size goes.
    """
    vision = config.vision_config
    if hasattr(vision, "spatial_merge_size"):
        side = 24 * vision.spatial_merge_size * vision.patch_size
    else:
        side = edge(vision.image_size) * (2 if _crops(config) else 1)
    return side, side


def prompts(
    adapter: Adapter, text: Sequence[int], size: tuple[int, int] | None = None, pictures: int = 1
) -> dict[str, Tensor]:
    """What `generate` takes for prompts with pictures, padded on the left, on the model's device and in its dtype.

    Args:
        adapter: the model's.
        text: text tokens of each prompt, half of them before the pictures; marks around a picture are not counted.
        size: (width, height) of a picture in pixels; None for `default_size`.
        pictures: how many a prompt has, side by side.

    Raises:
        ValueError: no prompts, too little text, or a size this family does not take.
    """
    if not text:
        raise ValueError("a batch of 0 prompts is not possible: at least one")
    if min(text) < 2:
        raise ValueError(
            f"{min(text)} text tokens are too few for a prompt: at least 2, one on each side of its picture"
        )
    model, config = adapter.model, adapter.config
    device, gen = model.device, torch.Generator(model.device).manual_seed(1)
    given = noise(config, len(text) * pictures, size or default_size(config), gen, model.dtype)
    token = adapter.placeholder_ids["image"]
    marks = [getattr(config, f"vision_{end}_token_id", None) for end in ("start", "end")]
    inner = [token] * len(adapter.pictures("image", given)[0])
    block = torch.tensor((inner if None in marks else [marks[0], *inner, marks[1]]) * pictures, device=device)
    known = torch.arange(min(_WORDS, config.get_text_config().vocab_size), device=device)
    special = [mark for mark in (*adapter.placeholder_ids.values(), *marks) if mark is not None]
    known = known[~torch.isin(known, torch.tensor(special, device=device))]
    ids = torch.zeros(len(text), max(text) + len(block), dtype=torch.long, device=device)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(text):
        words = known[torch.randint(len(known), (length,), generator=gen, device=device)]
        start = ids.shape[1] - length - len(block)
        ids[row, start:] = torch.cat([words[: length // 2], block, words[length // 2 :]])
        mask[row, start:] = 1
    batch, visibility = {"input_ids": ids, "attention_mask": mask, **given}, adapter.anatomy.visibility
    for name in {*POSITION_KINDS} & inspect.signature(type(model).forward).parameters.keys():
        batch[name] = (ids == token).long()
        if visibility is not None and visibility.kinds == name:
            batch[name] = torch.where((ids == token) | visibility.prefix, visibility.kind[0], visibility.text)
    return batch


def noise(
    config: Any, count: int, size: tuple[int, int], gen: torch.Generator, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """`count` pictures of noise, shaped as the family's own image processor shapes them, on the device of `gen`.

    Raises:
        ValueError: a size this family does not take.
    """
    (width, height), vision, device = size, config.vision_config, gen.device

    def pixels(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=gen, device=device, dtype=dtype)

    if hasattr(vision, "spatial_merge_size"):
        cell = vision.patch_size * vision.spatial_merge_size
        if width < cell or height < cell or width % cell or height % cell:
            raise ValueError(
                f"a picture of {width}x{height} does not fit this model: its sides are multiples of {cell}"
            )
        rows, columns = height // vision.patch_size, width // vision.patch_size
        channels = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        grid = torch.tensor([[1, rows, columns]] * count, device=device)
        return {"pixel_values": pixels(count * rows * columns, channels), "image_grid_thw": grid}
    side = edge(vision.image_size)
    if hasattr(config, "scale_factor"):  # tiles, a row of them a sample
        if (width, height) != (side, side):
            raise ValueError(f"a picture of {width}x{height} does not fit this model: its tiles are {side}x{side}")
        return {"pixel_values": pixels(count, 1, 3, side, side)}
    if _crops(config):
        crops = image_size_to_num_patches([height, width], config.image_grid_pinpoints, side)
        sizes = torch.tensor([[height, width]] * count, device=device)
        return {"pixel_values": pixels(count, crops, 3, side, side), "image_sizes": sizes}
    if (width, height) != (side, side):
        raise ValueError(f"a picture of {width}x{height} does not fit this model: it sees {side}x{side} only")
    return {"pixel_values": pixels(count, 3, side, side)}


def _crops(config: Any) -> bool:
    return bool(getattr(config, "image_grid_pinpoints", None))
