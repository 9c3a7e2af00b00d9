"""The tower's training pass: what transformers' Qwen2.5-VL computes (a test compares), in a form that compiles.

Pictures have one size, so that windows are a view: tokens stay in the order of windows from patches to merger.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...qwen.model import MERGE, PAIR, PATCH, SIDE, WINDOW
from ...world import IMAGE
from ..vision import MEAN, STD

_WINDOWS = IMAGE // WINDOW  # on a side
_MERGED = SIDE // _WINDOWS  # visual tokens on a side of a window
_EPS = 1e-6


def patched(pixels: Tensor, dtype: torch.dtype) -> Tensor:
    """uint8 (N, 2, 96, 96, 3), two frames of each step -> patches in the order of windows, (N, 256, 216)."""
    mean, std = (torch.tensor(v, device=pixels.device) for v in (MEAN, STD))
    values = ((pixels.float() / 255 - mean) / std).to(dtype)
    shape = (_WINDOWS, _MERGED, MERGE, PATCH)
    cut = values.view(len(pixels), PAIR, *shape, *shape, 3)
    # pictures, window rows and columns, token rows and columns, patch rows and columns, channel, frame, pixels
    order = cut.permute(0, 2, 6, 3, 7, 4, 8, 10, 1, 5, 9)
    return order.reshape(len(pixels), -1, 3 * PAIR * PATCH * PATCH)


def places(device: torch.device) -> Tensor:
    """Row and column of each patch in the order of windows: int (256, 2)."""
    rows = torch.arange(IMAGE // PATCH, device=device).view(_WINDOWS, 1, _MERGED, 1, MERGE, 1)
    columns = torch.arange(IMAGE // PATCH, device=device).view(1, _WINDOWS, 1, _MERGED, 1, MERGE)
    return torch.stack([t.flatten() for t in torch.broadcast_tensors(rows, columns)], -1)


def _rms(x: Tensor, weight: Tensor) -> Tensor:
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True, dtype=torch.float32) + _EPS).to(x.dtype) * weight


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


def _layer(x: Tensor, w: list[Tensor], cos: Tensor, sin: Tensor, heads: int, windows: int) -> Tensor:
    """One block; w: norm1, qkv and its bias, proj and its bias, norm2, gate, up, down, each with its bias.

    windows: in how many windows patches see each other, 1 for all of them.
    """
    size, length, width = x.shape
    mixed = F.linear(_rms(x, w[0]), w[1], w[2]).view(size, length, 3, heads, width // heads)
    q, k, v = mixed.permute(2, 0, 3, 1, 4).unbind(0)
    q, k = _rotate(q * (width // heads) ** -0.5, cos, sin), _rotate(k, cos, sin)
    q, k, v = (t.unflatten(2, (windows, -1)) for t in (q, k, v))
    seen = torch.matmul(torch.matmul(q, k.mT).softmax(-1), v).flatten(2, 3)
    x = x + F.linear(seen.transpose(1, 2).reshape(size, length, width), w[3], w[4])
    gate, up = F.linear(_rms(x, w[5]), torch.cat((w[6], w[8])), torch.cat((w[7], w[9]))).chunk(2, -1)
    return x + F.linear(F.silu(gate) * up, w[10], w[11])


run_layer = _layer


def features(tower: Any, pixels: Tensor) -> Tensor:
    """The visual tokens of steps, as the tower gives them: (N, 64, 128) in raster order.

    pixels: uint8 (N, 2, 96, 96, 3).
    """
    kernel = tower.patch_embed.proj.weight
    x = F.linear(patched(pixels, kernel.dtype), kernel.flatten(1))
    cos, sin = (t.to(x.dtype) for t in tower.rotary_pos_emb(x, places(x.device)))
    for number, block in enumerate(tower.blocks):
        parts = (block.attn.qkv, block.attn.proj)
        w = [block.norm1.weight, *(t for p in parts for t in (p.weight, p.bias)), block.norm2.weight]
        mlp = block.mlp
        w += [t for p in (mlp.gate_proj, mlp.up_proj, mlp.down_proj) for t in (p.weight, p.bias)]
        windows = 1 if number in tower.fullatt_block_indexes else _WINDOWS**2
        x = run_layer(x, w, cos, sin, block.attn.num_heads, windows)
    merged = tower.merger(x)
    grid = merged.view(len(pixels), _WINDOWS, _WINDOWS, _MERGED, _MERGED, -1).transpose(2, 3)
    return grid.reshape(len(pixels), SIDE * SIDE, -1)
