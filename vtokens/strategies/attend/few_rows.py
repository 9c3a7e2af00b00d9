"""A few rows of text, such as the one that is written, over segments that each row has in an order of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from vtokens.core.columns import columns_of
from vtokens.kernels import rotate
from vtokens.strategies.views.heads import Heads
from vtokens.strategies.views.places import Places


def of_few(
    heads: Heads, places: Places, query: Tensor, number: Tensor, shift: Tensor, place: Tensor, further: Tensor
) -> Tensor:
    """float32 (B, H, R, D): what a few rows of text attend to, on a CPU, by one softmax over all keys.

    All keys of a segment moved by the same to its place in the stack, so that the row is moved back in their stead.

    Args:
        query: (B, H, R, D).
        number: int64 (B, K), the segment of each key, -1 for text, -2 for padding.
        shift: int64 (B, K), by how much each key was moved to the place of its segment in the stack.
        place: int64 (B, R), where the key of each row stands.
        further: int64 (B, H, S * R), by how much each row is moved to see each segment in the stack.
    """
    (batch, heads_, rows, dim), (_, kv_heads, keys, _) = query.shape, heads.key.shape
    count = further.shape[2] // rows
    first = (number[:, None] == torch.arange(count)[:, None]).int().argmax(-1)
    back = shift.gather(1, first)[:, None, :, None].expand(-1, heads_, -1, rows)
    # Text between pictures was moved by as many positions as those behind it take.
    index, real = columns_of(number == -1, int((number == -1).sum(1).max()))
    by = further.flatten(1), back.flatten(1), shift.gather(1, index)
    cosines, sines = (part.split([one.shape[1] for one in by], 1) for part in places.turn(torch.cat(by, 1)))
    moved = query[:, :, None].expand(-1, -1, count, -1, -1).reshape(batch, 1, -1, dim)
    moved = turned(turned(moved, (cosines[0], sines[0])), (cosines[1], -sines[1])).view(batch, kv_heads, -1, dim)
    scores = (moved.float() @ heads.key.float().mT).view(batch, heads_, count, rows, keys)
    which = number.clamp(min=0)[:, None, None, None].expand(-1, heads_, 1, rows, -1)
    scores = scores.gather(2, which)[:, :, 0].masked_fill((number < 0)[:, None, None], -torch.inf)
    key, value = (part.gather(2, index[:, None, :, None].expand(-1, kv_heads, -1, part.shape[3])).float()
                  for part in (heads.key, heads.value))  # fmt: skip
    key = turned(key, (cosines[2], sines[2]))
    text = (query.float().reshape(batch, kv_heads, -1, dim) @ key.mT).view(batch, heads_, rows, -1)
    seen = real[:, None] & (index[:, None] <= place[..., None])
    shares = torch.cat([scores, text.masked_fill(~seen[:, None], -torch.inf)], 3).mul_(heads.scaling).softmax(-1)
    shares = shares.view(batch, kv_heads, -1, shares.shape[-1])
    output = shares[..., :keys] @ heads.value.float() + shares[..., keys:] @ value
    return output.view(batch, heads_, rows, -1)


def turned(states: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """States (B, H, N, D) turned by cosines and sines (B, N, R), in their own dtype."""
    return rotate(states, *angles).to(states.dtype)
