"""Computing the numbers of a trace from queries and keys, and from logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vtokens.kernels._precision import as_given
from vtokens.kernels.attention_rows import HIDDEN, row_scores

_LEAST = 1e-30
_CHUNK = 1 << 22
"""At most this many attention weights or logits are held in float32 at once."""


class Looked(NamedTuple):
    """Attention of R rows of one layer: float32 (B, H, R) each, and `received` (B, R, K), averaged over heads."""

    visual: Tensor
    spread: Tensor
    generated: Tensor
    received: Tensor


@as_given
def _weights(
    query: Tensor, key: Tensor, scaling: float, valid: Tensor | None, first: int, softcap: float | None
) -> Tensor:
    """float32 (B, H, R, K): what `attention_rows` gives, for rows of which row 0 is key `first`.

    Each row sees at least itself.
    """
    scores, _ = row_scores(query, key, scaling, None, None, None, softcap)
    rows, keys = query.shape[2], key.shape[2]
    if valid is not None:  # what padding holds may be no number, to which nothing can be added
        scores.masked_fill_(~valid[:, None, None], HIDDEN)
    # Filling a matrix takes as long as its softmax; only the last keys come behind some row.
    later = torch.full((rows, keys - first), HIDDEN, device=key.device).triu(1)
    scores[..., first:] += later
    return scores.softmax(-1)


class Asked(NamedTuple):
    """What the rows of one layer asked of its keys: the arguments of `look`."""

    query: Tensor
    key: Tensor
    scaling: float
    valid: Tensor | None
    visual: Tensor
    first: int
    softcap: float | None

    def beside(self, other: Asked) -> bool:
        """Whether both can be computed side by side, as samples of one batch."""
        one, two = ((a.query.shape, a.key.shape, a.scaling, a.valid is None, a.first, a.softcap) for a in (self, other))
        return one == two and self.key.device == other.key.device and self.key.dtype == other.key.dtype


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
    shown = visual.float()[:, None, None]
    chunk = max(1, _CHUNK // (batch * heads * key.shape[2]))
    parts = []
    for start in range(0, rows, chunk):
        weights = _weights(query[:, :, start : start + chunk], key, scaling, valid, first + start, softcap)
        # Summed by hand: a product with a single column takes several times as long.
        seen = weights * shown
        mass = seen.sum(-1)
        # -sum (a/A) log (a/A), without dividing each weight; a row that sees no picture has none.
        # torch.special.entr takes three times as long.
        logs, least = seen.clamp(min=_LEAST).log_().mul_(seen), mass.clamp(min=_LEAST)
        spread = least.log() - logs.sum(-1) / least
        spread = spread.clamp(min=0).masked_fill(mass == 0, 0)
        parts.append(Looked(mass, spread, weights[..., first + 1 :].sum(-1), weights.mean(1)))
    *by_head, received = zip(*parts, strict=True)
    visual_share, entropy, generated = (torch.cat(part, 2) for part in by_head)
    return Looked(visual_share, entropy, generated, torch.cat(received, 1))


def looks(asked: Sequence[Asked], most: int) -> list[Looked]:
    """`look` for several layers; those of one shape side by side, where their keys are few numbers, `most` in all."""
    found: dict[int, Looked] = {}
    for number, one in enumerate(asked):
        if number in found:
            continue
        alike = [other for other in range(number, len(asked)) if other not in found and one.beside(asked[other])]
        if len(alike) == 1 or len(alike) * one.key.numel() > most:
            found[number] = look(*one)
            continue
        some = [asked[i] for i in alike]
        query, key, visual = (
            torch.cat(parts) for parts in zip(*((a.query, a.key, a.visual) for a in some), strict=True)
        )
        valid = None if one.valid is None else torch.cat([a.valid for a in some if a.valid is not None])
        together = look(query, key, one.scaling, valid, visual, one.first, one.softcap)
        parts = zip(*(part.chunk(len(alike)) for part in together), strict=True)
        found |= {i: Looked(*part) for i, part in zip(alike, parts, strict=True)}
    return [found[number] for number in range(len(asked))]


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
        hidden: (B, N, D), their states.
        head: from states to logits.
        ids: int64 (B, T).

    Returns:
        float32 (B, T, N): log-probability of each token in the softmax over the whole vocabulary at each visual token.
    """
    answer = torch.arange(len(ids), device=ids.device).repeat_interleave(hidden.shape[1])
    parts, chunk = [], max(1, _CHUNK // int(getattr(head, "out_features", 1 << 15)))
    for rows, own in zip(hidden.flatten(0, 1).split(chunk), answer.split(chunk), strict=True):
        logits = head(rows).float()
        parts.append(logits.gather(1, ids[own]) - logits.logsumexp(-1, keepdim=True))
    return torch.cat(parts).view(*hidden.shape[:2], -1).transpose(1, 2)
