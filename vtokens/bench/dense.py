"""What our kernels are compared with: PyTorch's attention through each of its backends, and eager."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from vtokens.bench.case import Provider

_BACKENDS = {
    "sdpa_flash": SDPBackend.FLASH_ATTENTION,
    "sdpa_cudnn": SDPBackend.CUDNN_ATTENTION,
    "sdpa_efficient": SDPBackend.EFFICIENT_ATTENTION,
    "sdpa_math": SDPBackend.MATH,
}
_MATRIX = {"cpu": 1 << 31, "cuda": 1 << 34}
"""Bytes of attention probabilities up to which implementations that hold them are tried."""


def sdpa(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    causal: bool,
    mask: Tensor | None = None,
    matrix: bool = True,
    same: bool = True,
    only: tuple[str, ...] = (),
) -> dict[str, Provider]:
    """PyTorch's scaled dot-product attention, each backend forced, and the eager way.

    Args:
        query: (B, H, M, D).
        key, value: (B, H_kv, N, D). The efficient backend takes no grouped heads: keys are repeated in its time.
        causal: M = N and a row sees what is before it.
        mask: bool, to be broadcast over (B, H, M, N), instead.
        same: whether this is the problem of the case, or a denser one.
        only: the names of backends to take; all by default.
        matrix: whether those are tried too that hold all probabilities at once, where these are not too many.
    """
    held = query[..., 0].numel() * key.shape[2] * 4
    here = tuple(_BACKENDS) if query.is_cuda else ("sdpa_flash", "sdpa_math")
    names = [name for name in here if not only or name in only]
    if not matrix or 2 * held > _MATRIX[query.device.type]:
        names = [name for name in names if name != "sdpa_math"]
    found = {name: Provider(_forced(_BACKENDS[name], query, key, value, causal, mask), same=same) for name in names}
    if matrix and 2 * held <= _MATRIX[query.device.type]:
        found["eager"] = Provider(lambda _: eager(query, key, value, causal, mask), same=same)
    return found


def _forced(
    backend: SDPBackend, query: Tensor, key: Tensor, value: Tensor, causal: bool, mask: Tensor | None
) -> Callable[[Any], Tensor]:
    def run(_: Any) -> Tensor:
        states, shared = (key, value), query.shape[1] // key.shape[1]
        if backend == SDPBackend.EFFICIENT_ATTENTION and shared > 1:
            states = (key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1))
        with sdpa_kernel(backend):
            return scaled_dot_product_attention(
                query, *states, attn_mask=mask, is_causal=causal, enable_gqa=states[0].shape[1] != query.shape[1]
            )

    return run


def eager(query: Tensor, key: Tensor, value: Tensor, causal: bool, mask: Tensor | None = None) -> Tensor:
    """Two products and a softmax in float32, with keys repeated, as transformers' eager attention makes them."""
    shared = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
    scores = query @ key.mT * query.shape[-1] ** -0.5
    if causal:
        rows, keys = scores.shape[-2:]
        mask = torch.ones(rows, keys, dtype=torch.bool, device=query.device).tril(keys - rows)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(-1, dtype=torch.float32).to(value.dtype) @ value


def sampled_error(
    query: Tensor, key: Tensor, value: Tensor, seen: Callable[[Tensor], Tensor], rows: int = 16
) -> Callable[[Any], float]:
    """How far an output is from float64 arithmetic, on rows drawn once.

    Args:
        query, key, value: (B, H, M, D), (B, H_kv, N, D), (B, H_kv, N, D).
        seen: bool (B, H, R, N) or what broadcasts to it, for int64 (R,) rows: the keys they see.
        rows: how many.

    Returns:
        From an output (B, H, M, D), or a tuple that begins with one, to its largest absolute error.
    """
    row = torch.randint(0, query.shape[2], (rows,), device=query.device)
    shared = query.shape[1] // key.shape[1]

    def error(output: Any) -> float:
        got = (output[0] if isinstance(output, tuple) else output)[:, :, row].double()
        worst = 0.0
        for head in range(query.shape[1]):  # the keys of one head in float64 at a time
            k, v = (part[:, head // shared].double() for part in (key, value))
            scores = query[:, head, row].double() @ k.mT * query.shape[-1] ** -0.5
            allowed = seen(row).expand(len(query), query.shape[1], -1, -1)[:, head]
            expected = scores.masked_fill(~allowed, -torch.inf).softmax(-1).nan_to_num(0.0) @ v
            worst = max(worst, float((got[:, head] - expected).abs().max()))
        return worst

    return error
