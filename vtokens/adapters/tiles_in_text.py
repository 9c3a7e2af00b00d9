"""Tiles with text between, told from the tokens of a prompt: which of them are of one image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    return parted(placeholders, tile_starts(placeholders) & ((ended - earlier != ends) | ~known[:, None]))


def crops_together(placeholders: Tensor, ids: Tensor, first: Sequence[int], later: Sequence[int]) -> Tensor:
    """The same where an image stands before its crops, and words between them say so.

    Args:
        placeholders: bool (B, N).
        ids: int64 (B, N).
        first: the tokens between an image and its first crop.
        later: the tokens between crops; pictures that nothing but these part are crops only behind a first one.
    """
    starts = tile_starts(placeholders)
    begun, goes_on = (starts & _behind(placeholders, ids, words) for words in (first, later))
    place = torch.arange(ids.shape[1], device=ids.device)
    other, cropped = (
        torch.where(some, place, -1).cummax(1).values for some in (starts & ~begun & ~goes_on, begun)
    )  # where such a picture began last
    return parted(placeholders, starts & ~begun & ~(goes_on & (cropped > other)))


def begun_alike(placeholders: Tensor, inputs: Mapping[str, Any]) -> Tensor:
    """The same where a token of its own begins each image, and others its slices.

    Args:
        placeholders: bool (B, N).
        inputs: `input_ids` (B, N), or `inputs_embeds` (B, N, D). The first tile of a row begins an image.
    """
    ids: Any = inputs.get("input_ids")
    fed: Any = inputs["inputs_embeds"] if ids is None else ids[..., None]
    starts = tile_starts(placeholders)
    before = fed.roll(1, 1)
    first = starts.long().argmax(1)[:, None, None].expand(-1, 1, fed.shape[-1])
    return parted(placeholders, starts & (before == before.gather(1, first)).all(-1))


def tile_starts(placeholders: Tensor) -> Tensor:
    """bool (B, N): the first position of each stretch of placeholders."""
    return placeholders & ~torch.nn.functional.pad(placeholders, (1, 0))[:, :-1]


def parted(placeholders: Tensor, begins: Tensor) -> Tensor:
    """bool (B, N): all up to the last placeholder of a row, but what stands in front of a tile that begins an image."""
    place = torch.arange(placeholders.shape[1], device=placeholders.device)
    last = torch.where(placeholders, place, -1).amax(1, keepdim=True)
    return (place <= last) & ~torch.nn.functional.pad(begins, (0, 1))[:, 1:]


def _behind(placeholders: Tensor, ids: Tensor, words: Sequence[int]) -> Tensor:
    """bool (B, N): positions in front of which these tokens stand, and a placeholder in front of them."""
    size = len(words)
    if ids.shape[1] <= size + 1:
        return torch.zeros_like(placeholders)
    same = (ids.unfold(1, size, 1)[:, 1:-1] == torch.tensor(words, device=ids.device)).all(-1)
    return torch.nn.functional.pad(same & placeholders[:, : same.shape[1]], (size + 1, 0))
