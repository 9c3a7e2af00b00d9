"""What the tests of attention kernels share: attention in float64, bounds for each dtype, poisoned memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from tests import limits

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LENGTHS = (1, 31, 32, 33, 61)
"""One, a tile of 32 less one, a tile, a tile and one, a prime."""
HEADS = ((1, 1, 1, 64), (3, 4, 4, 80), (1, 4, 1, 96), (1, 7, 1, 128))
"""(batch, query heads, key-value heads, channels)."""
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# The root mean square of the error over that of the output: shares and outputs are rounded to the dtype.
_SHARE = {torch.float32: 8.0, torch.float16: 2.0, torch.bfloat16: 1.0}


def draw(
    batch: int, heads: int, kv_heads: int, rows: int, keys: int, dim: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    """Random q (B, H, R, D), k and v (B, H_kv, N, D), rounded to `dtype`; rows are far from uniform."""
    query, key = 2 * torch.randn(batch, heads, rows, dim), torch.randn(batch, kv_heads, keys, dim)
    return query.to(dtype), key.to(dtype), torch.randn(batch, kv_heads, keys, dim).to(dtype)


def dense(
    query: Tensor, key: Tensor, seen: Tensor | None = None, scaling: float | None = None
) -> tuple[Tensor, Tensor]:
    """Probabilities (B, H, R, N) and log-sum-exps (B, H, R) in float64; `seen` is broadcast to the former."""
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = query.double() @ key.double().repeat_interleave(query.shape[1] // key.shape[1], 1).mT * scaling
    if seen is not None:
        scores = scores.masked_fill(~seen, -torch.inf)
    top = scores.amax(-1, keepdim=True).clamp(min=-1e300)
    shares = (scores - top).exp()
    total = shares.sum(-1, keepdim=True)
    return shares / total.masked_fill(total == 0, 1), (top + total.log()).squeeze(-1)


def attend(
    query: Tensor, key: Tensor, value: Tensor, seen: Tensor | None = None, scaling: float | None = None
) -> tuple[Tensor, Tensor]:
    """Outputs (B, H, R, D_v), 0 for rows that see nothing, and log-sum-exps, in float64."""
    shares, lse = dense(query, key, seen, scaling)
    return shares @ value.double().repeat_interleave(query.shape[1] // value.shape[1], 1), lse


def close(got: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], dtype: torch.dtype = torch.float32) -> None:
    """Outputs and log-sum-exps up to rounding, their mean error too; infinities must be the same ones.

    bfloat16 has twice the room in triton's interpreter, which cuts numbers off where a GPU rounds them.
    """
    limits.close_attention(got, expected, rounded=dtype)
    output, true = got[0].double().cpu(), expected[0]
    room = 2 if dtype == torch.bfloat16 and DEVICE == "cpu" else 1
    off, most = (output - true).square().mean().sqrt(), room * _SHARE[dtype] * torch.finfo(dtype).eps
    assert off <= most * true.square().mean().sqrt(), f"root mean square error {off:.2e}"


def scores_close(got: Tensor, expected: Tensor, rows: int, dtype: torch.dtype = torch.float32) -> None:
    """Sums of `rows` shares each."""
    assert got.dtype == torch.float32
    limit = limits.rounding(1, 64 * max(1, rows)) + limits.rounding(expected, 1)
    if dtype != torch.float32:
        limit += limits.rounding(1, max(1, rows), dtype=dtype)
    torch.testing.assert_close(got.double().cpu(), expected, rtol=0, atol=limit)


def on_device(problem: dict[str, object]) -> dict[str, object]:
    """Its tensors on `DEVICE`."""
    return {name: part.to(DEVICE) if isinstance(part, Tensor) else part for name, part in problem.items()}


@contextmanager
def poisoned() -> Iterator[None]:
    """Fill memory that is not initialised with NaN, or the largest integer: what a kernel leaves out shows."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def strided(part: Tensor) -> list[Tensor]:
    """The same numbers in transposed storage, with steps in the last dimension, and inside a larger tensor."""
    larger = torch.full((*part.shape[:-2], part.shape[-2] + 3, part.shape[-1] + 5), torch.nan, dtype=part.dtype)
    inside = larger[..., 2:-1, 4:-1]
    inside.copy_(part)
    return [part.transpose(1, 2).contiguous().transpose(1, 2), part.repeat_interleave(2, -1)[..., ::2], inside]


def far_apart(key: Tensor) -> Tensor:
    """The same float16 keys (B <= 2, H_kv <= 2, N, D), the last of which stand behind the 2^31st element."""
    step = 2**31 // (key.shape[2] - 2)
    storage = torch.empty((key.shape[2] - 1) * step + 2**22, dtype=torch.float16)  # untouched memory costs nothing
    far = storage.as_strided(key.shape, (2**20, 2**19, step, 1))
    far.copy_(key)
    assert (key.shape[2] - 1) * step >= 2**31
    return far


def samples_do_not_meet(run: Callable[..., tuple[Tensor, ...]], problem: dict[str, object], batch: int) -> None:
    """A second run, and each sample alone, give the same bits; batches are the first dimension of all tensors."""
    together, again = run(**problem), run(**problem)
    for row in range(batch):
        one = slice(row, row + 1)
        alone = run(**{name: part[one] if isinstance(part, Tensor) else part for name, part in problem.items()})
        for part, same, single in zip(together, again, alone, strict=True):
            assert torch.equal(part, same)
            assert torch.equal(part[one], single)
