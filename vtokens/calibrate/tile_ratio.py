"""How long a visited tile takes beside one of dense attention, measured where the code runs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch.nn.functional import scaled_dot_product_attention

from vtokens.kernels import block_sparse_attention
from vtokens.tables.patterns.index import Run, Scene, index
from vtokens.tables.patterns.vertical_slash import VerticalSlash

_LENGTH = {"cpu": 8192}
_LENGTH_ELSEWHERE = 65536
_ROUNDS = 5


def tile_ratio(device: torch.device, dtype: torch.dtype, dim: int, block: tuple[int, int]) -> tuple[float, str]:
    """Seconds of a visited tile, selection included, over those of a causal tile of PyTorch's dense attention.

    Args:
        device, dtype, dim: where and on what; two heads of `dim` channels.
        block: rows and keys of a tile.

    Returns:
        The ratio of the medians of five rounds, and the device's name.
    """
    length = _LENGTH.get(device.type, _LENGTH_ELSEWHERE)
    query, key, value = (torch.randn(1, 2, length, dim, device=device, dtype=dtype) for _ in range(3))
    visual = torch.ones(1, length, dtype=torch.bool, device=device)
    scene = Scene(query, key, dim**-0.5, visual, None, (), block)
    runs = [Run("none", VerticalSlash(length // 32, 4, 256))] * 2

    def sparse() -> None:
        block_sparse_attention(query, key, value, index(runs, scene), scene.scaling)

    def dense() -> None:
        scaled_dot_product_attention(query, key, value, is_causal=True)

    with torch.no_grad():
        share = int(index(runs, scene).visited()) / int(index([Run()] * 2, scene).visited())
        rounds = [(_seconds(sparse, device), _seconds(dense, device)) for _ in range(_ROUNDS + 1)][1:]
    mine, theirs = (statistics.median(part) for part in zip(*rounds, strict=True))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type}, {_threads()}"
    return round(mine / share / theirs, 2), name


def _seconds(run: Callable[[], None], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begin = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin


def _threads() -> str:
    count = torch.get_num_threads()
    return "1 thread" if count == 1 else f"{count} threads"
