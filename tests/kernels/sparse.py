"""What the tests of block-sparse attention share: drawn problems, and a dense oracle that knows nothing of tiles."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from hypothesis import strategies as st
from torch import Tensor

from tests.limits import close_attention
from vtokens.kernels import Tiles, in_order


def shuffled(slots: Tensor) -> Tensor:
    """The same slots (B, P, T, block) in any order, empty ones anywhere."""
    flat = slots.flatten(2)
    order = torch.rand(flat.shape).argsort(-1)
    return flat.gather(-1, order).view(slots.shape)


def visible(tiles: Tiles, heads: int) -> Tensor:
    """bool (B, H, M, N): the pairs that `tiles` computes, read off its lists one by one."""
    batch = len(tiles.q_slot)
    mask = torch.zeros(batch, heads, tiles.rows, tiles.keys, dtype=torch.bool)
    for b in range(batch):
        for plan, head in enumerate(tiles.heads):
            for t, rows in enumerate(tiles.q_slot[b, plan].long()):
                start, count = int(tiles.start[b, plan, t]), int(tiles.count[b, plan, t])
                listed = range(count) if start < 0 else tiles.ids[start : start + count].tolist()
                assert len(set(listed)) == count, "a tile is listed twice"
                for tile in listed:
                    keys = tiles.k_slot[b, plan, tile].long()
                    mask[b, head, rows[rows >= 0][:, None], keys[keys >= 0]] = True
    if tiles.offset is not None:
        mask &= torch.arange(tiles.keys) <= torch.arange(tiles.rows)[:, None] + tiles.offset
    return mask


def dense(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float) -> tuple[Tensor, Tensor]:
    """Output (B, H, M, D_v) and log-sum-exp (B, H, M) in float64; 0 and -inf where a row sees nothing."""
    shared = query.shape[1] // key.shape[1]
    key, value = (part.double().repeat_interleave(shared, 1) for part in (key, value))
    scores = (query.double() @ key.mT * scaling).masked_fill(~mask, -torch.inf)
    return scores.softmax(-1).nan_to_num(0.0) @ value, scores.logsumexp(-1)


@dataclass(frozen=True)
class Problem:
    """Arguments of `block_sparse_attention`."""

    query: Tensor
    key: Tensor
    value: Tensor
    tiles: Tiles
    scaling: float

    def expected(self) -> tuple[Tensor, Tensor]:
        """What the dense oracle says."""
        return dense(self.query, self.key, self.value, visible(self.tiles, self.query.shape[1]), self.scaling)

    def of(self, dtype: torch.dtype) -> Problem:
        """The same with other numbers."""
        query, key, value = (part.to(dtype) for part in (self.query, self.key, self.value))
        return replace(self, query=query, key=key, value=value)

    @property
    def args(self) -> tuple[Tensor, Tensor, Tensor, Tiles, float]:
        """In order."""
        return self.query, self.key, self.value, self.tiles, self.scaling


def problem(
    batch: int, heads: int, kv_heads: int, rows: int, keys: int, dim: int = 16, wide: int = 16,
    block: tuple[int, int] = (16, 16), share: float = 0.5, causal: bool = True, padded: bool = False,
) -> Problem:  # fmt: skip
    """Random numbers and random tiles over shuffled slots; with `padded`, some keys and rows are in none."""
    query, key = 2 * torch.randn(batch, heads, rows, dim), 2 * torch.randn(batch, kv_heads, keys, dim)
    value = torch.randn(batch, kv_heads, keys, wide)
    there = [torch.rand(batch, size) > 0.2 if padded else None for size in (rows, keys)]
    q_slot = shuffled(in_order(rows, block[0], batch, heads, there[0]))
    k_slot = shuffled(in_order(keys, block[1], batch, heads, there[1]))
    visit = torch.rand(batch, heads, q_slot.shape[2], k_slot.shape[2]) < share
    tiles = Tiles.mask(q_slot, k_slot, visit, rows=rows, keys=keys, offset=keys - rows if causal else None)
    return Problem(query, key, value, tiles, dim**-0.5 / 2)


@st.composite
def problems(draw: st.DrawFn, block: tuple[int, ...] = (1, 3, 8), most: int = 40) -> Problem:
    """Any heads, lengths, tiles, padding, causal or not, more keys than rows."""
    kv_heads, shared = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    rows, past = draw(st.integers(1, most)), draw(st.sampled_from([0, 0, 1, 17]))
    torch.manual_seed(draw(st.integers(0, 9999)))
    return problem(
        draw(st.integers(1, 3)), kv_heads * shared, kv_heads, rows, rows + past, draw(st.sampled_from([4, 16])),
        draw(st.sampled_from([4, 16])), (draw(st.sampled_from(block)), draw(st.sampled_from(block))),
        draw(st.sampled_from([0.0, 0.3, 0.7, 1.0])), draw(st.booleans()), draw(st.booleans()),
    )  # fmt: skip


def close(got: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    """Outputs and log-sum-exps up to rounding; infinities must be the same ones."""
    close_attention(got, expected, keys=128)
