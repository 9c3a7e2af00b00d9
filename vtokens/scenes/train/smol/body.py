"""The language model's training pass: frozen matrices, low-rank updates beside them (LoRA, Hu et al., 2022).

It computes what transformers' Llama computes with the updates merged (a test compares), in a form that is fast on CPUs:
plain matrix products in the working dtype, norms folded into the matrices behind them, one step a layer.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...smol.model import SCALE

RANK = 16


def _rms(x: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True, dtype=torch.float32) + eps).to(x.dtype)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


def _layer(
    x: Tensor, w: list[Tensor], cos: Tensor, sin: Tensor, mask: Tensor, heads: tuple[int, int], eps: float
) -> Tensor:
    """One decoder layer.

    x: (B, L, hidden). w: qkv, o, gate and up, down; then the updates' factors of qkv and of o, the scale in the second.
    cos, sin: (B, 1, L, head). mask: (B, 1, 1, L, L), added. heads: of queries, of keys.
    """
    size, length, width = x.shape
    queries, keys = heads
    dim = w[0].shape[0] // (queries + 2 * keys)
    y = _rms(x, eps)
    mixed = (F.linear(y, w[0]) + F.linear(F.linear(y, w[4]), w[5])).view(size, length, -1, dim).transpose(1, 2)
    q, k, v = mixed.split((queries, keys, keys), 1)
    q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
    # Heads that share keys are rows of one product, so that no key is copied.
    scores = torch.matmul(q.reshape(size, keys, -1, dim), k.mT).view(size, keys, queries // keys, length, length)
    shares = (scores + mask).softmax(-1).view(size, keys, -1, length)
    seen = torch.matmul(shares, v).view(size, queries, length, dim).transpose(1, 2).reshape(size, length, width)
    x = x + F.linear(seen, w[1]) + F.linear(F.linear(seen, w[6]), w[7])
    gate, up = F.linear(_rms(x, eps), w[2]).chunk(2, -1)
    return x + F.linear(F.silu(gate) * up, w[3])


run_layer = _layer


class Body(nn.Module):
    """The frozen language model with trainable updates of its attention matrices.

    Args:
        config: its `LlamaConfig`.
        weights: its tensors in float32, as `vtokens.scenes.smol.language.Language.weights` gives them.
        dtype: what is computed in; the updates are float32.
        seed: of the updates' first factors; the second ones are zero.
    """

    def __init__(self, config: Any, weights: dict[str, Tensor], dtype: torch.dtype, seed: int) -> None:
        super().__init__()
        self.config, self.dtype = config, dtype
        self.words = weights["embed_tokens.weight"].to(dtype)
        self.norm = weights["norm.weight"].to(dtype)
        self.frozen = [folded(config, weights, n, dtype) for n in range(config.num_hidden_layers)]
        draw = torch.Generator().manual_seed(seed)
        self.updates = nn.ParameterDict()
        for n, (qkv, o, *_) in enumerate(self.frozen):
            for name, matrix in (("qkv", qkv), ("o", o)):
                outputs, inputs = matrix.shape
                bound = 1 / math.sqrt(inputs)
                first = (torch.rand(RANK, inputs, generator=draw) * 2 - 1) * bound
                self.updates[f"{n}_{name}_a"] = nn.Parameter(first)
                self.updates[f"{n}_{name}_b"] = nn.Parameter(torch.zeros(outputs, RANK))
        size = config.hidden_size // config.num_attention_heads
        theta = config.rope_parameters["rope_theta"]
        self.speeds = theta ** -(torch.arange(0, size, 2).float() / size)

    def forward(self, x: Tensor, positions: Tensor, allowed: Tensor) -> Tensor:
        """Last hidden states, the final norm applied: (B, L, hidden).

        x: (B, L, hidden) embeddings in the working dtype. positions: int (B, L). allowed: bool (B, L, L).
        """
        angles = positions[..., None].float() * self.speeds
        cos, sin = (torch.cat((t, t), -1)[:, None].to(self.dtype) for t in (angles.cos(), angles.sin()))
        mask = torch.zeros(allowed.shape, dtype=self.dtype).masked_fill(~allowed, -1e4)[:, None, None]
        heads = (self.config.num_attention_heads, self.config.num_key_value_heads)
        eps = self.config.rms_norm_eps
        for n, frozen in enumerate(self.frozen):
            w = [*frozen, *(self._factor(f"{n}_{name}_{part}") for name in ("qkv", "o") for part in "ab")]
            x = run_layer(x, w, cos, sin, mask, heads, eps)
        return _rms(x, eps) * self.norm

    def _factor(self, name: str) -> Tensor:
        factor = self.updates[name]
        return (factor * SCALE if name.endswith("b") else factor).to(self.dtype)

    def embed(self, ids: Tensor) -> Tensor:
        """Word embeddings in the working dtype."""
        return self.words[ids]

    def logits(self, states: Tensor) -> Tensor:
        """float32 logits of hidden states, by the tied embeddings."""
        return F.linear(states, self.words).float()


def folded(config: Any, weights: dict[str, Tensor], layer: int, dtype: torch.dtype) -> list[Tensor]:
    """The four matrices of a layer: norms folded in, the queries' scale too."""

    def get(name: str) -> Tensor:
        return weights[f"layers.{layer}.{name}.weight"]

    scale = (config.hidden_size // config.num_attention_heads) ** -0.5
    q, k, v = (get(f"self_attn.{name}_proj") for name in "qkv")
    before, between = get("input_layernorm"), get("post_attention_layernorm")
    both = torch.cat((get("mlp.gate_proj"), get("mlp.up_proj")))
    matrices = torch.cat((q * scale, k, v)) * before, get("self_attn.o_proj"), both * between, get("mlp.down_proj")
    return [m.to(dtype) for m in matrices]
