"""What a prefill costs: one FLOPs formula and one definition of KV bytes, used everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def layer_flops(config: Any, queries: int, keys: int | None = None) -> int:
    """Floating-point operations of one decoder layer for one sequence.

    A multiply-add counts two. Counted are the four attention projections, the two attention products over the full
    queries x keys rectangle (causality not deducted, as papers count it) and the three matrices of the gated MLP:
    4 n d^2 + 2 n^2 d + 2 n d m of the FastV paper with multiply-adds doubled, a third MLP matrix and grouped keys.

    Args:
        config: the decoder's config.
        queries: positions that enter the layer.
        keys: positions attended to; default the same.
    """
    keys = queries if keys is None else keys
    heads, kv_heads, dim = _heads(config)
    width, inner = config.hidden_size, config.intermediate_size
    projections = width * dim * (2 * heads + 2 * kv_heads) * queries
    products = 2 * queries * keys * heads * dim
    return 2 * (projections + products + 3 * width * inner * queries)


def prefill_flops(config: Any, lengths: Sequence[int]) -> int:
    """Decoder FLOPs of a prefill in which layer i sees `lengths[i]` positions; tower and vocabulary head excluded."""
    return sum(layer_flops(config, length) for length in lengths)


def kv_bytes(config: Any, lengths: Sequence[int], itemsize: int) -> int:
    """Bytes of keys and values for one sequence when layer i caches `lengths[i]` positions of `itemsize` bytes."""
    _, kv_heads, dim = _heads(config)
    return 2 * kv_heads * dim * itemsize * sum(lengths)


def _heads(config: Any) -> tuple[int, int, int]:
    heads = config.num_attention_heads
    dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    return heads, getattr(config, "num_key_value_heads", None) or heads, dim
