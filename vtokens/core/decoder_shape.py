"""What a decoder's config says of one of its layers: widths, heads, experts, windows, and what it caches."""

from __future__ import annotations

from typing import Any

STATES = ("linear_attention", "conv")
"""What transformers' `config.layer_types` calls layers that keep a state of fixed size in place of keys."""


def attends(config: Any, index: int) -> bool:
    """Whether a layer has attention."""
    types = getattr(config, "layer_types", None) or ()
    return index >= len(types) or types[index] not in STATES


def window_of(config: Any, index: int) -> int | None:
    """Positions that a layer looks back over, its own included, or that are in its chunks; None if all."""
    types = getattr(config, "layer_types", None)
    kind = "sliding_attention" if types is None else types[index] if index < len(types) else None
    name = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}.get(kind or "")
    return None if name is None else getattr(config, name, None)


def keys_are_shared(config: Any, index: int) -> bool:
    """Whether a layer attends to keys of an earlier one (Gemma 4), and makes none."""
    shared = getattr(config, "num_kv_shared_layers", None) or 0
    return shared > 0 and index >= config.num_hidden_layers - shared


def values_are_keys(config: Any, index: int) -> bool:
    """Whether a layer makes its values of the same projection as its keys (Gemma 4)."""
    return bool(getattr(config, "attention_k_eq_v", False)) and config.layer_types[index] == "full_attention"


def projected_kinds(config: Any, index: int) -> int:
    """How many of keys and values a layer has a projection for: 2, 1 that both come of, or 0 where it makes neither."""
    return 0 if keys_are_shared(config, index) else 1 if values_are_keys(config, index) else 2


def caches(config: Any, index: int) -> bool:
    """Whether a layer has keys of its own."""
    return attends(config, index) and not keys_are_shared(config, index)


def is_latent(config: Any) -> bool:
    """Whether layers cache what all heads share in place of their keys and values (arXiv:2405.04434)."""
    return getattr(config, "kv_lora_rank", None) is not None


def heads_of(config: Any, index: int) -> tuple[int, int, int]:
    """Query heads, key heads and their width in a layer."""
    mixed = getattr(config, "per_layer_config", None)
    config, heads = mixed[index] if mixed else config, config.num_attention_heads
    dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    return heads, getattr(config, "num_key_value_heads", None) or heads, dim


def cached_numbers(config: Any, index: int) -> int:
    """Numbers that a layer caches for each position."""
    if is_latent(config):
        return int(config.kv_lora_rank + config.qk_rope_head_dim)
    _, kv_heads, dim = heads_of(config, index)
    return 2 * kv_heads * dim


def pair_products(config: Any, index: int) -> int:
    """Multiply-adds for a query and a key, over all heads: their product, and the key's value by its weight."""
    if is_latent(config):
        widths = config.qk_nope_head_dim + config.qk_rope_head_dim + config.v_head_dim
        return int(config.num_attention_heads * widths)
    heads, _, dim = heads_of(config, index)
    return 2 * heads * dim


def mlp_of(config: Any, index: int = 0) -> tuple[int, int]:
    """Channels inside the MLP that a token goes through in a layer, and outputs of the router that chooses its experts.

    Raises:
        ValueError: only some of the layers have experts, and not all behind the first few.
    """
    inner, chosen = getattr(config, "moe_intermediate_size", None), getattr(config, "num_experts_per_tok", None)
    if (mixed := getattr(config, "moe_layers", None)) is not None:  # layers with experts, and one that all go through
        if index in mixed:
            return config.intermediate_size * (1 + config.num_experts_per_tok), config.num_local_experts
        return int(config.intermediate_size_mlp), 0
    if getattr(config, "enable_moe_block", False):  # experts beside the MLP
        return config.intermediate_size + config.top_k_experts * inner, config.num_experts
    if not inner or not chosen or index < (getattr(config, "first_k_dense_replace", None) or 0):
        return _dense(config), 0
    if getattr(config, "mlp_only_layers", None) or getattr(config, "decoder_sparse_step", 1) != 1:
        raise ValueError("a decoder in which only some layers have experts is not counted")
    # Every token goes through shared experts too: one with a gate of one channel, or several without.
    shared = getattr(config, "shared_expert_intermediate_size", 0) or 0
    always = (getattr(config, "n_shared_experts", 0) or 0) * inner
    experts = getattr(config, "num_experts", None) or getattr(config, "n_routed_experts", None) or 0
    return chosen * inner + shared + always, experts + bool(shared)


def _dense(config: Any) -> int:
    """Channels inside an MLP of which all tokens go through all; LFM2 names those of two matrices, and has three."""
    inner: int = config.intermediate_size
    if getattr(config, "block_auto_adjust_ff_dim", False):
        inner = int(2 * inner / 3)
        inner = inner if config.block_ffn_dim_multiplier is None else int(config.block_ffn_dim_multiplier * inner)
        inner = config.block_multiple_of * -(-inner // config.block_multiple_of)
    return inner
