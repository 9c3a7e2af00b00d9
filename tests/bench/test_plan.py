"""What a GPU would be asked to do, counted without one: tiles, operations and bytes of a long video's grid heads."""

import heapq
from dataclasses import replace

import pytest
import torch
from torch.nn.attention.flex_attention import BlockMask

from vtokens.bench.case import BenchSetting
from vtokens.bench.flex import over_tiles
from vtokens.bench.kernels import block_sparse as bench
from vtokens.kernels import Tiles, block_sparse_attention
from vtokens.tables.patterns import AShape
from vtokens.tables.patterns.grid import Grid
from vtokens.tables.patterns.index import Run, Scene, index

CPU = BenchSetting(torch.device("cpu"), torch.float32)
HEADS, KV_HEADS, DIM = 28, 4, 128
"""A layer of Qwen2.5-VL-7B; one of its heads is planned here."""


def planned(length: int) -> Tiles:
    """The tiles of one grid head, as the benchmark runs it."""
    query, key = torch.randn(2, 1, 1, length, DIM)
    visual = torch.ones(1, length, dtype=torch.bool)
    visual[:, :32] = visual[:, -32:] = False
    scene = Scene(query, key, DIM**-0.5, visual, None, (196,), bench.BLOCK)
    return index([Run("none", Grid(True, True, False, 256, (196,), 64))], scene)


def list_bytes(tiles: Tiles) -> int:
    """Of slots and lists."""
    parts = tiles.q_slot, tiles.k_slot, tiles.ids, tiles.start, tiles.count, tiles.full
    return sum(part.numel() * part.element_size() for part in parts)


@pytest.mark.parametrize(("length", "faster"), [(131072, 2), pytest.param(1048576, 12, marks=pytest.mark.slow)])
def test_the_targets_are_within_the_operations(length: int, faster: float) -> None:
    """At 65 % of the dense rate a visited tile, the operations leave room for the speed-up that is aimed at.

    Half of the time may go to estimating lines and building lists. The operations are those of the visited tiles, whole
    tiles on the diagonal included; dense attention is counted without them.
    """
    tiles = planned(length)
    work = bench.work(torch.empty(1, 1, length, DIM), torch.empty(1, 1, length, DIM), tiles)
    visited = int(tiles.count.sum())
    assert work.flops == visited * 128 * 64 * 4 * DIM
    assert work.dense_flops == 4 * DIM * length * (length + 1) / 2
    assert work.dense_flops / work.flops * 0.65 / 2 > faster
    # Each row is in one slot, and no list names a tile that is not there.
    slots = tiles.q_slot[tiles.q_slot >= 0]
    assert torch.equal(slots.sort().values, torch.arange(length, dtype=torch.int32))
    assert int(tiles.ids.min()) >= 0
    assert int(tiles.ids.max()) < tiles.k_slot.shape[2]
    # Queries, keys, values, outputs and log-sum-exps in bfloat16, and every head's own lists, on one card.
    states = 2 * length * DIM * 2 * (HEADS + KV_HEADS) + 4 * length * HEADS
    assert states + HEADS * list_bytes(tiles) < 20e9
    assert HEADS * list_bytes(tiles) < 0.1 * states


@pytest.mark.parametrize("length", [131072, pytest.param(1048576, marks=pytest.mark.slow)])
def test_no_multiprocessor_waits_for_a_strip(length: int) -> None:
    """Programs in the order of their launch, one at a time on each of 132 multiprocessors, end at nearly once."""
    pytest.importorskip("triton")
    from vtokens.kernels._triton.block_sparse import _CHUNK, _SHARES, _divide

    count = planned(length).count.flatten().repeat(HEADS)
    work, merged = _divide(count, _CHUNK, _SHARES)
    work = work[work[:, 0] >= 0].long()
    left = count[work[:, 0]] - work[:, 1]
    load = torch.where(work[:, 2] >= 0, left.clamp(max=_CHUNK), left)
    assert int(load.sum()) == int(count.sum())
    assert int((merged[:, 0] >= 0).sum()) > 0
    busy = [0] * 132
    for tiles in load.tolist():
        heapq.heapreplace(busy, busy[0] + tiles)
    assert max(busy) < 1.02 * sum(busy) / 132


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("density", [0.3, 1.0])
def test_flex_attention_is_given_the_same_tiles(density: float, causal: bool) -> None:
    """The lists handed to it, read back as FlexAttention reads them, hold the pairs that our lists hold."""
    length = 512
    query, key, value = (CPU.randn(1, heads, length, 16) for heads in (2, 1, 1))
    case = bench._random(CPU, query, key, value, density, causal)
    select = case.providers["flex"].select
    assert select is not None
    blocks = select().to_dense().bool().repeat_interleave(128, 2).repeat_interleave(64, 3)
    seen = blocks.tril() if causal else blocks
    scores = (query @ key.mT * 16**-0.5).masked_fill(~seen, -torch.inf)
    ours = case.providers["reference"].run(None)
    torch.testing.assert_close(scores.softmax(-1) @ value, ours[0], rtol=0, atol=2e-6)
    torch.testing.assert_close(scores.logsumexp(-1), ours[1], rtol=0, atol=5e-6)
    assert case.error is not None
    assert case.error(ours) < 2e-6


def by_lists(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, block_mask: BlockMask) -> torch.Tensor:
    """Softmax attention over the pairs that a `BlockMask` lists and lets through, as FlexAttention documents them."""
    listed = block_mask.to_dense().bool()
    full = torch.zeros_like(listed)
    for place in listed.nonzero().tolist():
        batch, head, row, tile = place
        count = int(block_mask.full_kv_num_blocks[batch, head, row])
        full[batch, head, row, tile] = tile in block_mask.full_kv_indices[batch, head, row, :count].tolist()
    size = block_mask.BLOCK_SIZE
    listed, full = (part.repeat_interleave(size[0], 2).repeat_interleave(size[1], 3) for part in (listed, full))
    b, h, q, k = (torch.arange(n) for n in listed.shape)
    seen = block_mask.mask_mod(b[:, None, None, None], h[:, None, None], q[:, None], k)
    scores = (query @ key.mT * query.shape[-1] ** -0.5).masked_fill(~(full | (listed & seen)), -torch.inf)
    return scores.softmax(-1).nan_to_num(0.0) @ value


@pytest.mark.parametrize("block", [(16, 16), (32, 16)])
def test_flex_attention_over_tiles_in_any_order_sees_what_ours_does(block: tuple[int, int]) -> None:
    """Grid heads beside dense ones: columns and lone rows have tiles of their own, whose slots are partly empty."""
    query, key, value = CPU.randn(1, 4, 300, 16), CPU.randn(1, 2, 300, 16), CPU.randn(1, 2, 300, 8)
    visual = torch.ones(1, 300, dtype=torch.bool)
    visual[:, :20] = visual[:, -30:] = False
    runs = [Run("none", Grid(True, True, False, 16, (14,), 16)), Run(), *[Run("none", AShape(16, 32))] * 2]
    tiles = index(runs, Scene(query, key, 0.25, visual, None, (14,), block))
    assert not bool((tiles.k_slot.flatten(2).diff() > 0).all())
    expected, _ = block_sparse_attention(query, key, value, tiles)
    torch.testing.assert_close(over_tiles(by_lists, query, key, value, tiles), expected, rtol=0, atol=2e-6)


def test_dense_strips_need_a_mask_at_their_end_only() -> None:
    """Tiles without a list: all but those of the row's own block come without a mask, whatever the version."""
    length = 1024
    query, key, value = (CPU.randn(1, 1, length, 16) for _ in range(3))
    case = bench._random(CPU, query, key, value, 1.0)
    select = case.providers["flex"].select
    assert select is not None
    mask = select()
    assert mask.kv_num_blocks.tolist() == [[[2] * 8]]
    assert mask.full_kv_num_blocks.tolist() == [[[0, 2, 4, 6, 8, 10, 12, 14]]]


def test_a_tile_more_costs_its_operations() -> None:
    """The plan's counts follow its lists."""
    tiles = planned(4096)
    one = replace(tiles, count=tiles.count.clone())
    one.count[0, 0, 0] += 1
    assert one.flops(DIM, DIM) - tiles.flops(DIM, DIM) == 128 * 64 * 4 * DIM
    query, key, value = (torch.randn(1, 1, 4096, DIM) for _ in range(3))
    assert block_sparse_attention(query, key, value, tiles)[0].isfinite().all()
