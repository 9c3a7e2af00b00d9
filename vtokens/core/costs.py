"""What a call costs: one FLOPs formula and one definition of KV bytes, used everywhere; docs/costs.md says why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

BUDGET = (
    "keep is a share of each picture's visual tokens, rounded half up and at least one token, or a count per picture; "
    "kept_tokens is the number of visual tokens a decoder layer sees at prefill, averaged over all decoder layers; "
    "newline, class and text tokens are not counted"
)
"""The definition of the token budget, as results carry it."""


STATES = ("linear_attention", "conv")
"""What transformers' `config.layer_types` calls layers that keep a state of fixed size in place of keys."""


@dataclass(frozen=True)
class Encoding:
    """The work of a vision tower and its projector on the pictures of one call, as shapes.

    Attributes:
        width: channels of a tower block; its heads share them.
        inner: channels inside its MLP.
        gated: whether that MLP has three matrices instead of two.
        blocks: for each block, the lengths of the sequences within which it attends; they add up to the rows it sees.
        embedding: (rows, inputs, outputs) of the patch embedding.
        projector: (rows, inputs, outputs) of the matrices after the last block.
        counted: operations of a tower, or a part of one, that is not built of such blocks, as torch counts them.
    """

    width: int
    inner: int
    gated: bool
    blocks: tuple[tuple[int, ...], ...]
    embedding: tuple[int, int, int]
    projector: tuple[tuple[int, int, int], ...]
    counted: int = 0


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of a whole call, by part.

    Attributes:
        tower: patch embedding and blocks of the vision tower.
        projector: what turns its features into visual tokens.
        prefill: decoder layers on the prompt (`prefill_flops`).
        decode: decoder layers on the new tokens that are fed back (`decode_flops`).
        head: the vocabulary head, one position for each new token.
    """

    tower: int
    projector: int
    prefill: int
    decode: int
    head: int

    @property
    def first_token(self) -> int:
        """Operations before the first new token; the head, whose part is tiny, is left out."""
        return self.tower + self.projector + self.prefill

    @property
    def total(self) -> int:
        """All of them."""
        return self.tower + self.projector + self.prefill + self.decode + self.head


def call_flops(
    config: Any, encoding: Encoding | None, lengths: Sequence[int], new_tokens: int, batch: int = 1
) -> Flops:
    """Operations of a call that answers `batch` prompts of equal length with `new_tokens` each.

    Args:
        config: the decoder's config.
        encoding: the pictures of the whole batch; None if there are none.
        lengths: positions of one prompt that each decoder layer sees.
        new_tokens: at least 1.
        batch: prompts.
    """
    return Flops(
        0 if encoding is None else tower_flops(encoding),
        0 if encoding is None else projector_flops(encoding),
        batch * prefill_flops(config, lengths),
        batch * decode_flops(config, lengths, new_tokens - 1),
        batch * new_tokens * 2 * config.hidden_size * config.vocab_size,
    )


def tower_flops(encoding: Encoding) -> int:
    """Operations of the patch embedding and the blocks: 4 n d^2 + 2 n^2 d + 2 or 3 n d m a block, times two."""
    width, matrices = encoding.width, 2 + encoding.gated
    dense = 4 * width * width + matrices * width * encoding.inner
    lengths = [length for block in encoding.blocks for length in block]
    return (
        2 * sum(n * dense + 2 * n * n * width for n in lengths) + _matrix_flops(encoding.embedding) + encoding.counted
    )


def projector_flops(encoding: Encoding) -> int:
    """Operations of the matrices between the tower's last block and the decoder."""
    return sum(map(_matrix_flops, encoding.projector))


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
    width, inner, router = config.hidden_size, *_mlp(config, index)
    products = queries * keys * _pair(config, index)
    if _latent(config):
        return 2 * (_latent_projections(config, queries, keys) + products + width * (3 * inner + router) * queries)
    heads, kv_heads, dim = _heads(config, index)
    kinds = 0 if _keys_are_shared(config, index) else 1 if _values_are_keys(config, index) else 2
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
    width, (inner, router) = config.hidden_size, _mlp(config)
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
    _, kv_heads, dim = _heads(config, 0)
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
    if not _attends(config, index):
        inner, router = _mlp(config, index)
        return 2 * config.hidden_size * (3 * inner + router) * rows
    if _latent(config):  # of its projections only the last one is known to work row by row
        inner, router = _mlp(config, index)
        width, heads, value = config.hidden_size, config.num_attention_heads, config.v_head_dim
        return 2 * (width * (3 * inner + router + heads * value) + keys * _pair(config, index)) * rows
    _, kv_heads, dim = _heads(config, index)
    kinds = 0 if _keys_are_shared(config, index) else 1 if _values_are_keys(config, index) else 2
    return layer_flops(config, rows, keys, index) - 2 * config.hidden_size * dim * kinds * kv_heads * rows


def prefill_flops(config: Any, lengths: Sequence[int], attended: Sequence[int] | None = None) -> int:
    """Decoder FLOPs of a prefill in which layer i sees `lengths[i]` positions; tower and vocabulary head excluded.

    Args:
        config: the decoder's config.
        lengths: rows that each layer computes.
        attended: positions its attention works on, where merged tokens stand at several; default the same.
    """
    attended = lengths if attended is None else attended
    total = lengths[0] * _entering(config, len(lengths)) if lengths else 0
    for index, (rows, seen) in enumerate(zip(lengths, attended, strict=True)):
        if not _attends(config, index):
            total += state_layer_flops(config, rows)
            continue
        total += layer_flops(config, rows, index=index) + 2 * (seen * seen - rows * rows) * _pair(config, index)
    return total


def decode_flops(config: Any, lengths: Sequence[int], steps: int) -> int:
    """Decoder FLOPs of `steps` tokens fed back one at a time, layer i having cached `lengths[i]`; head excluded.

    A layer with a sliding window, or with chunks, has no more keys than these are long.
    """
    total = steps * _entering(config, len(lengths))
    for index, length in enumerate(lengths):
        if not _attends(config, index):
            total += steps * state_layer_flops(config, 1)
            continue
        idle, window = layer_flops(config, 1, 0, index), _window(config, index)
        growing = steps if window is None else min(steps, max(0, window - length))
        keys = growing * length + growing * (growing + 1) // 2 + (steps - growing) * (window or 0)
        total += steps * idle + keys * (layer_flops(config, 1, 1, index) - idle)
    return total


def kv_bytes(config: Any, lengths: Sequence[int], itemsize: int) -> int:
    """Bytes of keys and values for one sequence when layer i caches `lengths[i]` positions of `itemsize` bytes.

    Layers that keep a state in place of keys count nothing: it has one size, whatever the length. Nor do those that
    attend to keys of earlier ones. Latent attention caches one latent and one rotated key for all heads. A layer with a
    sliding window, or with chunks, lets go of what the next token does not see: one position less than these are long.
    """
    total = 0
    for index, length in enumerate(lengths):
        if _caches(config, index):
            window = _window(config, index)
            total += _cached(config, index) * (length if window is None else min(length, window - 1))
    return itemsize * total


def _cached(config: Any, index: int) -> int:
    """Numbers that a layer caches for each position."""
    if _latent(config):
        return int(config.kv_lora_rank + config.qk_rope_head_dim)
    _, kv_heads, dim = _heads(config, index)
    return 2 * kv_heads * dim


def _latent(config: Any) -> bool:
    """Whether layers cache what all heads share in place of their keys and values (arXiv:2405.04434)."""
    return getattr(config, "kv_lora_rank", None) is not None


def _latent_projections(config: Any, queries: int, keys: int) -> int:
    """Multiply-adds of latent attention's projections: the last one makes keys and values of all latents."""
    width, heads, rank, latent = config.hidden_size, config.num_attention_heads, config.q_lora_rank, config.kv_lora_rank
    unturned, turned, value = config.qk_nope_head_dim, config.qk_rope_head_dim, config.v_head_dim
    dim = heads * (unturned + turned)
    query = width * dim if rank is None else rank * (width + dim)
    return queries * (query + width * (latent + turned + heads * value)) + keys * latent * heads * (unturned + value)


def _pair(config: Any, index: int) -> int:
    """Multiply-adds for a query and a key, over all heads: their product, and the key's value by its weight."""
    if _latent(config):
        widths = config.qk_nope_head_dim + config.qk_rope_head_dim + config.v_head_dim
        return int(config.num_attention_heads * widths)
    heads, _, dim = _heads(config, index)
    return 2 * heads * dim


def _caches(config: Any, index: int) -> bool:
    """Whether a layer has keys of its own."""
    return _attends(config, index) and not _keys_are_shared(config, index)


def _window(config: Any, index: int) -> int | None:
    """Positions that a layer looks back over, its own included, or that are in its chunks; None if all."""
    types = getattr(config, "layer_types", None)
    kind = "sliding_attention" if types is None else types[index] if index < len(types) else None
    name = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}.get(kind or "")
    return None if name is None else getattr(config, name, None)


def _attends(config: Any, index: int) -> bool:
    """Whether a layer has attention."""
    types = getattr(config, "layer_types", None) or ()
    return index >= len(types) or types[index] not in STATES


def _matrix_flops(shape: tuple[int, int, int]) -> int:
    rows, inputs, outputs = shape
    return 2 * rows * inputs * outputs


def _mlp(config: Any, index: int = 0) -> tuple[int, int]:
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


def _entering(config: Any, depth: int) -> int:
    """Operations for one position before the first layer: all layers' own inputs are made there."""
    return 2 * config.hidden_size * depth * (getattr(config, "hidden_size_per_layer_input", None) or 0)


def _keys_are_shared(config: Any, index: int) -> bool:
    """Whether a layer attends to keys of an earlier one (Gemma 4), and makes none."""
    shared = getattr(config, "num_kv_shared_layers", None) or 0
    return shared > 0 and index >= config.num_hidden_layers - shared


def _values_are_keys(config: Any, index: int) -> bool:
    """Whether a layer makes its values of the same projection as its keys (Gemma 4)."""
    return bool(getattr(config, "attention_k_eq_v", False)) and config.layer_types[index] == "full_attention"


def _heads(config: Any, index: int) -> tuple[int, int, int]:
    """Query heads, key heads and their width in a layer."""
    mixed = getattr(config, "per_layer_config", None)
    config, heads = mixed[index] if mixed else config, config.num_attention_heads
    dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    return heads, getattr(config, "num_key_value_heads", None) or heads, dim
