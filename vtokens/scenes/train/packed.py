"""The language model's training pass: many questions behind one visual prefix, each seeing the prefix and itself.

It computes what transformers' Llama and Qwen2.5-VL compute for every question alone behind the prefix (tests compare),
in a form that is fast on CPUs in bfloat16: plain matrix products, no (L, L) mask over all questions.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Piece = tuple[Tensor, int]  # ids (B, Q, T) of one group of questions, and the position of their first token


def _rms(x: Tensor, eps: float) -> Tensor:
    # The norm's own weight is folded into the next matrix: one pass over the activations less.
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True, dtype=torch.float32) + eps).to(x.dtype)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


def _attend(q: Tensor, k: Tensor, v: Tensor, prefix: int, shapes: list[tuple[int, int]]) -> Tensor:
    """q, k, v: (B, H, L, D), L = the prefix, then Q * T positions of each group of questions; returns (B, H, L, D)."""
    # Splits, not slices: the gradient of a slice is a whole tensor of zeros, added up; that of a split is one cat.
    sizes = [prefix] + [n * t for n, t in shapes]
    (qp, *qs), (kp, *ks), (vp, *vs) = (x.split(sizes, 2) for x in (q, k, v))
    found = [torch.matmul((torch.matmul(qp, kp.mT) + _causal(prefix, q)).softmax(-1), vp)]
    for qg, kg, vg, shape in zip(qs, ks, vs, shapes, strict=True):
        outer = torch.matmul(qg, kp.mT)
        inner = torch.matmul(qg.unflatten(2, shape), kg.unflatten(2, shape).mT) + _causal(shape[1], q)
        far, near = torch.cat((outer, inner.flatten(2, 3)), -1).softmax(-1).split([prefix, shape[1]], -1)
        own = torch.matmul(near.unflatten(2, shape), vg.unflatten(2, shape))
        found.append(torch.matmul(far, vp) + own.flatten(2, 3))
    return torch.cat(found, 2)


def _causal(length: int, like: Tensor) -> Tensor:
    return torch.full((length, length), float("-inf"), dtype=like.dtype, device=like.device).triu(1)


def _layer(
    x: Tensor,
    w: list[Tensor],
    biases: list[Tensor],
    cos: Tensor,
    sin: Tensor,
    eps: float,
    heads: int,
    prefix: int,
    shapes: list[tuple[int, int]],
) -> Tensor:
    """One decoder layer; w: input norm, q, k, v, o, second norm, gate, up, down. biases: of q, k, v, or none."""
    size, length, width = x.shape
    dim = width // heads
    qkv = torch.cat((w[1] * dim**-0.5, w[2], w[3])) * w[0]
    bias = torch.cat((biases[0] * dim**-0.5, *biases[1:])) if biases else None
    mixed = F.linear(_rms(x, eps), qkv, bias).unflatten(-1, (-1, dim)).transpose(1, 2)
    shared = len(w[2]) // dim
    q, k, v = mixed.split([heads, shared, shared], 1)
    if shared < heads:
        k, v = (t.repeat_interleave(heads // shared, 1) for t in (k, v))
    seen = _attend(_rotate(q, cos, sin), _rotate(k, cos, sin), v, prefix, shapes)
    x = x + F.linear(seen.transpose(1, 2).reshape(size, length, -1), w[4])
    gate, up = F.linear(_rms(x, eps), torch.cat((w[6], w[7])) * w[5]).chunk(2, -1)
    return x + F.linear(F.silu(gate) * up, w[8])


run_layer = _layer


def hidden_states(llama: Any, prefix: Tensor, positions: Tensor, pieces: list[Piece]) -> list[Tensor]:
    """Last hidden states (final norm applied) of each group of questions.

    llama: a transformers LlamaModel, or the text model of Qwen2.5-VL. prefix: (B, P, hidden) embeddings; positions: int
    (B, P) of the prefix, or (3, B, P): time, height and width.
    Returns one (B, Q, T, hidden) per piece.
    """
    config = llama.config
    heads = config.num_attention_heads
    shapes = [(ids.shape[1], ids.shape[2]) for ids, _ in pieces]
    x = torch.cat([prefix] + [llama.embed_tokens(ids).flatten(1, 2) for ids, _ in pieces], 1)
    where = [positions]
    for ids, start in pieces:
        text = (start + torch.arange(ids.shape[2], device=x.device)).repeat(ids.shape[1])
        where.append(text.expand(*positions.shape[:-1], -1))
    cos, sin = (t[:, None].to(x.dtype) for t in llama.rotary_emb(x, torch.cat(where, -1)))
    for layer in llama.layers:
        a, m = layer.self_attn, layer.mlp
        w = [layer.input_layernorm.weight, *(p.weight for p in (a.q_proj, a.k_proj, a.v_proj, a.o_proj))]
        w += [layer.post_attention_layernorm.weight, *(p.weight for p in (m.gate_proj, m.up_proj, m.down_proj))]
        biases = [p.bias for p in (a.q_proj, a.k_proj, a.v_proj) if p.bias is not None]
        x = run_layer(x, w, biases, cos, sin, config.rms_norm_eps, heads, prefix.shape[1], shapes)
    x = _rms(x, config.rms_norm_eps) * llama.norm.weight
    _, *found = x.split([prefix.shape[1]] + [q * t for q, t in shapes], 1)
    return [part.unflatten(1, shape) for part, shape in zip(found, shapes, strict=True)]


def answer_loss(head: nn.Module, states: list[Tensor], labels: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Mean cross-entropy over the answer tokens, and of every group which answers are right, bool (B, Q)."""
    kept = torch.cat([s[t != -100] for s, t in zip(states, labels, strict=True)])
    wanted = torch.cat([t[t != -100] for t in labels])
    logits = head(kept).float()
    loss = F.cross_entropy(logits, wanted)
    wrong = (logits.argmax(-1) != wanted).float()
    right, start = [], 0
    for t in labels:
        count = int((t != -100).sum())
        misses = torch.zeros(t.shape, device=t.device)
        misses[t != -100] = wrong[start : start + count]
        right.append(misses.sum(-1) == 0)
        start += count
    return loss, right
