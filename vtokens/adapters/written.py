"""Tiles with text between, told from the tokens of a prompt: which of them are of one image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def written_together(placeholders: Tensor, inputs: Mapping[str, Any], ends: int) -> Tensor:
    """The positions among which tiles of one image follow each other, where a processor ends each image with a token.

    That token is the one behind the last tile of a row. It stands `ends` times between two tiles of one image, and
    once more between two images. A row that ends with a tile does not say which one it is: its tiles stay apart.

    Args:
        placeholders: bool (B, N), the positions of the tiles' features; one stretch a tile.
        inputs: what the multimodal module is given: `input_ids` (B, N), or `inputs_embeds` (B, N, D).
        ends: how often the token stands between tiles of one image.

    Returns:
        bool (B, N), as `Adapter.stretches` says.
    """
    ids: Any = inputs.get("input_ids")
    fed: Any = inputs["inputs_embeds"] if ids is None else ids[..., None]
    place = torch.arange(placeholders.shape[1], device=placeholders.device)
    last = torch.where(placeholders, place, -1).amax(1)
    known = (last >= 0) & (last < len(place) - 1)
    token = fed.gather(1, (last + 1).clamp(max=len(place) - 1)[:, None, None].expand(-1, -1, fed.shape[-1]))
    ended = ((fed == token).all(-1) & ~placeholders).long().cumsum(1)
    # How often it stood up to the tile before.
    earlier = torch.where(placeholders, ended, -1).cummax(1).values.roll(1, 1)
    earlier[:, 0] = -1
    before = torch.nn.functional.pad(placeholders, (1, 0))[:, :-1]
    begins = placeholders & ~before & ((ended - earlier != ends) | ~known[:, None])
    # A stretch ends in front of the tile that begins another.
    return (place <= last[:, None]) & ~begins.roll(-1, 1)
