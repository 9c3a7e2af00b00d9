"""Computing the numbers of a trace from queries and keys, and from logits."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vtokens.kernels import attention_rows

_LEAST = 1e-30
_CHUNK = 1 << 22
"""At most this many attention weights or logits are held in float32 at once."""


class Looked(NamedTuple):
    """Attention of R rows of one layer: float32 (B, H, R) each, and `received` (B, R, K), averaged over heads."""

    visual: Tensor
    spread: Tensor
    generated: Tensor
    received: Tensor


class Likelihood(NamedTuple):
    """Of the distributions that predicted some tokens: float32, natural logarithms."""

    logprob: Tensor
    entropy: Tensor
    margin: Tensor


def entropies(logits: Tensor) -> Tensor:
    """float32 (B,), in nats, of the distributions over (B, V) logits."""
    return _entropy(_logarithms(logits))


def look(
    query: Tensor, key: Tensor, scaling: float, valid: Tensor | None, visual: Tensor, first: int,
    softcap: float | None = None,
) -> Looked:  # fmt: skip
    """The attention of the rows that predict a response.

    Args:
        query: (B, H, R, D), rotary embedding applied.
        key: (B, H_kv, K, D).
        scaling: the factor on their products.
        valid: bool (B, K), False on padding; None if there is none.
        visual: bool (B, K), keys that hold visual tokens.
        first: the key of row 0; the others follow it, one each, and hold the response.
        softcap: as in `attention_rows`.
    """
    batch, heads, rows, _ = query.shape
    shown = visual.float()[:, None, :, None]
    chunk = max(1, _CHUNK // (batch * heads * key.shape[2]))
    parts = []
    for start in range(0, rows, chunk):
        part = query[:, :, start : start + chunk]
        place = torch.arange(first + start, first + start + part.shape[2], device=key.device).expand(batch, -1)
        weights = attention_rows(part, key, scaling, place, valid, softcap=softcap)
        mass = (weights @ shown)[..., 0]
        # torch.special.entr takes three times as long.
        logs = (weights * weights.clamp(min=_LEAST).log() @ shown)[..., 0]
        # -sum (a/A) log (a/A), without dividing each weight; a row that sees no picture has none.
        spread = mass.clamp(min=_LEAST).log() - logs / mass.clamp(min=_LEAST)
        spread = spread.clamp(min=0).masked_fill(mass == 0, 0)
        parts.append(Looked(mass, spread, weights[..., first + 1 :].sum(-1), weights.mean(1)))
    *by_head, received = zip(*parts, strict=True)
    visual_share, entropy, generated = (torch.cat(part, 2) for part in by_head)
    return Looked(visual_share, entropy, generated, torch.cat(received, 1))


def likelihood(logits: Tensor, ids: Tensor) -> Likelihood:
    """How likely tokens were.

    Args:
        logits: (n, V), any floating dtype.
        ids: int64 (n,), the token that followed each.

    Returns:
        float32 (n,) each: log-probability, entropy in nats, and the two largest probabilities' difference.
    """
    chunk = max(1, _CHUNK // logits.shape[1])
    parts = []
    for start in range(0, len(ids), chunk):
        logs = _logarithms(logits[start : start + chunk])
        top = logs.topk(2).values.exp()
        chosen = logs.gather(1, ids[start : start + chunk, None])[:, 0]
        parts.append(Likelihood(chosen, _entropy(logs), top[:, 0] - top[:, 1]))
    return Likelihood(*(torch.cat(part) for part in zip(*parts, strict=True)))


def _logarithms(logits: Tensor) -> Tensor:
    """float32 (n, V): of the probabilities that logits stand for."""
    found = logits.float()
    return found - found.logsumexp(-1, keepdim=True)


def _entropy(logs: Tensor) -> Tensor:
    """float32 (n,), in nats; a token forbidden with -inf has no share in it."""
    return torch.special.entr(logs.exp()).sum(-1)


def lens(hidden: Tensor, head: torch.nn.Module, ids: Tensor) -> Tensor:
    """The logit lens: probabilities of words at visual tokens, through the output layer.

    Args:
        hidden: (N, D), their states.
        head: from states to logits.
        ids: int64 (T,).

    Returns:
        float32 (T, N): log-probability of each token in the softmax over the whole vocabulary at each visual token.
    """
    parts = []
    vocabulary = int(getattr(head, "out_features", 1 << 15))
    for rows in hidden.split(max(1, _CHUNK // vocabulary)):
        logits = head(rows).float()
        parts.append(logits[:, ids] - logits.logsumexp(-1, keepdim=True))
    return torch.cat(parts).T if parts else hidden.new_zeros(len(ids), 0, dtype=torch.float32)
