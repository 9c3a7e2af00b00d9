"""Floating-point operations of one decoder layer, by its kind."""

from __future__ import annotations

from typing import Any

from vtokens.core.decoder_shape import attends, heads_of, is_latent, mlp_of, pair_products, projected_kinds


def layer_flops(config: Any, queries: int, keys: int | None = None, index: int = 0) -> int:
    """Floating-point operations of one decoder layer for one sequence.

    A multiply-add counts two. Counted are the four attention projections, the two attention products over the full
    queries x keys rectangle (causality not deducted, as papers count it) and the three matrices of the gated MLP:
    4 n d^2 + 2 n^2 d + 2 n d m of the FastV paper with multiply-adds doubled, a third MLP matrix and grouped keys. Of a
    mixture of experts, the router and the experts that each token goes through count. Of latent attention
    (arXiv:2405.04434) the projections through low ranks count, and that keys and values are made anew of all latents
    in each pass, as transformers does it.

    Args:
        config: the decoder's config.
        queries: positions that enter the layer.
        keys: positions attended to; default the same.
        index: the layer, where they differ.
    """
    keys = queries if keys is None else keys
    width, inner, router = config.hidden_size, *mlp_of(config, index)
    products = queries * keys * pair_products(config, index)
    if is_latent(config):
        return 2 * (_latent_projections(config, queries, keys) + products + width * (3 * inner + router) * queries)
    heads, kv_heads, dim = heads_of(config, index)
    kinds = projected_kinds(config, index)
    inner *= 1 + (kinds == 0 and getattr(config, "use_double_wide_mlp", False))
    # Where others are Gated DeltaNet, the query projection makes a gate for the output of attention too.
    gate = heads if hasattr(config, "linear_num_value_heads") else 0
    projections = width * dim * (2 * heads + kinds * kv_heads + gate) * queries
    # Inputs of its own go through a gate and back (`Anatomy.per_layer`).
    beside = 2 * (getattr(config, "hidden_size_per_layer_input", None) or 0)
    return 2 * (projections + products + width * (3 * inner + router + beside) * queries)


def state_layer_flops(config: Any, queries: int) -> int:
    """Floating-point operations of a decoder layer that keeps a state in place of keys; counted as in `layer_flops`.

    Of Gated DeltaNet (arXiv:2412.06464) the projections, the convolution before it, and for each position three
    products with the state of each head: what it holds for the key, what is written, what the query reads. That is
    the recurrence, as single tokens run it; prompts go through it in blocks, which takes a few more. Of a short
    convolution (LFM2) the projections and the taps.

    Args:
        config: the decoder's config.
        queries: positions that enter the layer.
    """
    width, (inner, router) = config.hidden_size, mlp_of(config)
    if hasattr(config, "conv_L_cache"):
        return 2 * width * (4 * width + config.conv_L_cache + 3 * inner + router) * queries
    heads, dim = config.linear_num_value_heads, config.linear_value_head_dim
    keys, values = config.linear_num_key_heads * config.linear_key_head_dim, heads * dim
    mixed = 2 * keys + values
    projections = width * (mixed + 2 * values + 2 * heads) + mixed * config.linear_conv_kernel_dim
    products = 3 * values * config.linear_key_head_dim
    return 2 * (projections + products + width * (3 * inner + router)) * queries


def cross_layer_flops(config: Any, queries: int, keys: int) -> int:
    """Floating-point operations of a decoder layer whose keys stand outside the sequence; counted as in `layer_flops`.

    Args:
        config: the decoder's config.
        queries: positions of the sequence.
        keys: visual tokens, and what else is attended to.
    """
    _, kv_heads, dim = heads_of(config, 0)
    return layer_flops(config, queries, keys) + 4 * config.hidden_size * dim * kv_heads * (keys - queries)


def passed_flops(config: Any, rows: int, keys: int, index: int) -> int:
    """Floating-point operations that decoder layer `index` saves where rows pass through it as they are.

    Their keys and values are made all the same. In a layer that keeps a state only the MLP is left out.

    Args:
        config: the decoder's config.
        rows: that pass through.
        keys: positions that others attend to.
        index: the layer.
    """
    if not attends(config, index):
        inner, router = mlp_of(config, index)
        return 2 * config.hidden_size * (3 * inner + router) * rows
    if is_latent(config):  # of its projections only the last one is known to work row by row
        inner, router = mlp_of(config, index)
        width, heads, value = config.hidden_size, config.num_attention_heads, config.v_head_dim
        return 2 * (width * (3 * inner + router + heads * value) + keys * pair_products(config, index)) * rows
    _, kv_heads, dim = heads_of(config, index)
    kinds = projected_kinds(config, index)
    return layer_flops(config, rows, keys, index) - 2 * config.hidden_size * dim * kinds * kv_heads * rows


def _latent_projections(config: Any, queries: int, keys: int) -> int:
    """Multiply-adds of latent attention's projections: the last one makes keys and values of all latents."""
    width, heads, rank, latent = config.hidden_size, config.num_attention_heads, config.q_lora_rank, config.kv_lora_rank
    unturned, turned, value = config.qk_nope_head_dim, config.qk_rope_head_dim, config.v_head_dim
    dim = heads * (unturned + turned)
    query = width * dim if rank is None else rank * (width + dim)
    return queries * (query + width * (latent + turned + heads * value)) + keys * latent * heads * (unturned + value)


def entering_flops(config: Any, depth: int) -> int:
    """Operations for one position before the first layer: all layers' own inputs are made there."""
    return 2 * config.hidden_size * depth * (getattr(config, "hidden_size_per_layer_input", None) or 0)
