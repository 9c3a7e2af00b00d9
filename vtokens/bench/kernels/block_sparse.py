"""Block-sparse prefill attention against dense attention and FlexAttention over the same tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from vtokens.bench import flex
from vtokens.bench.case import BenchSetting, Case, Provider, Work, ours
from vtokens.bench.dense import sampled_error, sdpa
from vtokens.kernels import Tiles, block_sparse_attention, in_order
from vtokens.tables.patterns.grid import Grid
from vtokens.tables.patterns.index import Run, Scene, index

BLOCK = (128, 64)
_LARGE = (256, 128)
"""What suits a CPU better: plain PyTorch takes tiles of any size."""
_LONG = 131072
"""Beyond so many tokens dense attention takes seconds, and FlexAttention's lists gigabytes."""
_GRID = 196
"""Visual tokens of a row or frame: the stride of the grid heads."""


def cases(setting: BenchSetting) -> Iterator[Case]:
    """Random tiles at 5 %, every tile, and grid heads of a video, at rising lengths."""
    heads, kv_heads = (28, 4) if setting.cuda else (2, 1)
    lengths = (16384, 131072, 1048576) if setting.cuda else (16384,)
    for length in (1024,) if setting.quick else lengths:
        query, (key, value) = _draw(setting, heads, length), (_draw(setting, kv_heads, length) for _ in range(2))
        yield _grid(setting, query, key, value)
        if not (setting.cuda or setting.quick):
            yield _grid(setting, query, key, value, block=_LARGE)
        yield _random(setting, query, key, value, 0.05)
        if not setting.cuda:
            yield _random(setting, query, key, value, 0.05, block=_LARGE)
        if length <= _LONG:
            yield _random(setting, query, key, value, 0.05, causal=False)
            yield _random(setting, query, key, value, 1.0)


def _draw(setting: BenchSetting, heads: int, length: int) -> Tensor:
    return setting.randn(1, heads, length, 128)


def _random(
    setting: BenchSetting, query: Tensor, key: Tensor, value: Tensor, density: float, causal: bool = True,
    block: tuple[int, int] = BLOCK,
) -> Case:  # fmt: skip
    """Tiles drawn for each query tile, the same share of those it sees, those of its own rows among them."""
    length, heads, device = query.shape[2], query.shape[1], setting.device
    q_slot, k_slot = (in_order(length, size, 1, heads).to(device) for size in block)
    rows, keys, own = q_slot.shape[2], k_slot.shape[2], block[0] // block[1]
    after = (torch.arange(rows, device=device) + 1) * own
    reach = after if causal else torch.full_like(after, keys)
    number = (density * reach).round().clamp(min=own)
    drawn = (torch.rand(heads, rows, int(number.max()), device=device) * reach[:, None]).long()
    drawn[..., :own] = after[:, None] - 1 - torch.arange(own, device=device)
    drawn.masked_fill_(torch.arange(drawn.shape[2], device=device) >= number[:, None], keys)
    everything = torch.full((1, heads, rows), density == 1.0, dtype=torch.bool, device=device)
    offset = 0 if causal else None
    tiles = Tiles.padded(q_slot, k_slot, drawn[None], everything, tuple(range(heads)), length, length, offset)
    name = ("every tile" if density == 1.0 else f"random tiles of {block[0]} x {block[1]}, {density:.0%}") + (
        "" if causal else ", not causal"
    )
    providers = ours(setting, lambda _: block_sparse_attention(query, key, value, tiles))
    providers |= _dense(query, key, value, causal, density == 1.0)
    if length <= _LONG:
        providers |= flex.in_place(query, key, value, tiles)
    return Case(
        (1, heads, key.shape[1], query.shape[3], length, length), name, density_of(tiles), work(query, key, tiles),
        providers, sampled_error(query, key, value, visible(tiles)),
    )  # fmt: skip


def _grid(
    setting: BenchSetting, query: Tensor, key: Tensor, value: Tensor, block: tuple[int, int] = BLOCK
) -> Case:  # fmt: skip
    """Every 196th column and row, at a phase that is estimated from the last rows; permuted."""
    length = query.shape[2]
    visual = torch.ones(1, length, dtype=torch.bool, device=setting.device)
    visual[:, :32] = visual[:, -32:] = False
    scene = Scene(query, key, query.shape[3] ** -0.5, visual, None, (_GRID,), block)
    select = partial(index, [Run("none", Grid(True, True, False, 256, (_GRID,), 64))] * query.shape[1], scene)
    tiles = select()
    providers = ours(setting, lambda chosen: block_sparse_attention(query, key, value, chosen), select)
    providers |= _dense(query, key, value, True, False)
    if length <= _LONG:
        providers |= flex.gathered(query, key, value, select)
    name = f"grid, stride {_GRID}" + (f", tiles of {block[0]} x {block[1]}" if block != BLOCK else "")
    return Case(
        (1, query.shape[1], key.shape[1], query.shape[3], length, length), name, density_of(tiles),
        work(query, key, tiles), providers,
    )  # fmt: skip


def _dense(query: Tensor, key: Tensor, value: Tensor, causal: bool, same: bool) -> dict[str, Provider]:
    """PyTorch's attention; of long sequences by the two fastest backends alone."""
    only = () if query.shape[2] <= _LONG else ("sdpa_flash", "sdpa_cudnn")
    return sdpa(query, key, value, causal, matrix=False, same=same, only=only)


def density_of(tiles: Tiles) -> float:
    """The area of the visited tiles over that of the pairs which dense attention computes."""
    area = int(tiles.visited().sum()) * tiles.block[0] * tiles.block[1]
    return area / (len(set(tiles.heads)) * len(tiles.q_slot) * pairs(tiles))


def pairs(tiles: Tiles) -> float:
    """Pairs of a row and a key that it sees, in one head."""
    return tiles.rows * (tiles.keys if tiles.offset is None else tiles.offset + (tiles.rows + 1) / 2)


def work(query: Tensor, key: Tensor, tiles: Tiles) -> Work:
    """Operations of the visited tiles and of dense attention; queries, keys, values and outputs moved once."""
    (batch, heads, length, dim), kv_heads = query.shape, key.shape[1]
    dense = 2 * 2 * batch * heads * dim * pairs(tiles)
    return Work(tiles.flops(dim, dim), 2 * batch * (heads + kv_heads) * length * dim * query.element_size(), dense)


def visible(tiles: Tiles) -> Callable[[Tensor], Tensor]:
    """bool (B, H, R, N) for int64 (R,) rows: which keys they see; slots must be in order."""
    block_m, block_n = tiles.block

    def seen(rows: Tensor) -> Tensor:
        item = rows // block_m
        start, count = tiles.start[:, :, item], tiles.count[:, :, item]
        key_tiles = tiles.k_slot.shape[2]
        which = torch.arange(key_tiles, device=rows.device)
        entry = (start.clamp(min=0)[..., None] + which).clamp(max=max(0, len(tiles.ids) - 1))
        listed = torch.where(start[..., None] < 0, which, tiles.ids[entry].long())
        inside = torch.zeros(*listed.shape[:3], key_tiles + 1, dtype=torch.bool, device=rows.device)
        inside.scatter_(-1, listed.masked_fill(which >= count[..., None], key_tiles), True)
        keys = inside[..., :key_tiles].repeat_interleave(block_n, -1)[..., : tiles.keys]
        if tiles.offset is None:
            return keys
        return keys & (torch.arange(tiles.keys, device=rows.device) <= rows[:, None] + tiles.offset)

    return seen
