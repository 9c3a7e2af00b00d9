"""One round of token merging: bipartite soft matching with a threshold, for a batch of token sets.

DToMe of DyMU (arXiv:2504.17040), after ToMe (arXiv:2210.09461).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from vtokens.kernels._dispatch import use_triton
from vtokens.kernels._precision import TIE, as_given
from vtokens.kernels.attention_rows import chunk_of


class Merged(NamedTuple):
    """Token sets after a round of merging.

    Attributes:
        hidden: (B, N, C), in the dtype it came in.
        size: float32 (B, N), original tokens in each row; 0 on rows that hold none.
        valid: bool (B, N), False on padding and on rows that were merged away.
        row: int64 (B, N), where each row of the input went; itself if it stayed or was padding.
    """

    hidden: Tensor
    size: Tensor
    valid: Tensor
    row: Tensor


@dataclass(frozen=True)
class Edges:
    """The best partner of each token that may be merged away, at most one edge a token.

    Attributes:
        score: float32 (B, E), cosine of the two metrics; -inf where there is no edge.
        source: int64 (B, E), the row that would be merged away.
        target: int64 (B, E), the row that would take it in.
    """

    score: Tensor
    source: Tensor
    target: Tensor


@torch.no_grad()
@as_given
def match(metric: Tensor, valid: Tensor, protect: int = 0) -> Edges:
    """Draw an edge from every other token to the most similar one of those in between.

    Tokens take sides by their rank among the valid ones, so padding changes nothing. Of partners whose cosines lie
    within `TIE` of the largest the earliest is taken: on a flat picture the largest alone is a matter of rounding.
    Half of the free tokens have an edge at most, as in the release: where an odd number of them would leave one more,
    the least alike has none, the last of them within `TIE`.

    Args:
        metric: (B, N, d), any float dtype and length; zero vectors are dissimilar to everything.
        valid: bool (B, N).
        protect: leading valid tokens that neither merge nor receive (1 for a class token).
    """
    width = valid.shape[1]
    order = _valid_first(valid)
    rank = torch.arange(width, device=valid.device)
    free = (rank < valid.sum(1, keepdim=True)) & (rank >= protect)
    source, target, may_go, may_take = order[:, 0::2], order[:, 1::2], free[:, 0::2], free[:, 1::2]
    if target.shape[1] == 0:
        return Edges(torch.full(source.shape, -torch.inf, device=valid.device), source, source)
    if use_triton(metric):
        from vtokens.kernels._triton.bipartite_merge import match as fused

        score, best = fused(metric, source, target, may_take)
    else:
        unit = _unit(metric)
        score, best = _best(_take(unit, source), _take(unit, target), may_take)
    # Rounding lifts the cosine of equal vectors above 1, but a threshold of 1 must merge nothing.
    score = score.clamp(max=1.0).masked_fill(~may_go, -torch.inf)
    spare = _last_least(score, may_go) & (2 * may_go.sum(1) > free.sum(1))[:, None]
    return Edges(score.masked_fill(spare, -torch.inf), source, target.gather(1, best))


@as_given
def merge(hidden: Tensor, size: Tensor, valid: Tensor, edges: Edges, threshold: float) -> Merged:
    """Follow the edges above `threshold`: each target becomes the size-weighted mean of itself and its sources.

    Rows keep their places, so spatial order survives; `compact` removes those merged away.

    Args:
        hidden: (B, N, C).
        size: float32 (B, N), original tokens in each row.
        valid: bool (B, N).
        edges: from `match`.
        threshold: edges must be strictly above it.
    """
    batch, width = valid.shape
    row = torch.arange(width, device=valid.device).repeat(batch, 1)
    row = row.scatter(1, edges.source, torch.where(edges.score > threshold, edges.target, edges.source))
    flat = (row + width * torch.arange(batch, device=row.device)[:, None]).flatten()
    size = size * valid
    total = torch.zeros_like(size).flatten().index_add_(0, flat, size.flatten())
    # Weights first: they are exactly 1 on rows nothing joins, and the sum cannot leave the range of its parts.
    weight, total = size.flatten() / total[flat].clamp(min=1e-30), total.view_as(size)
    if use_triton(hidden):
        from vtokens.kernels._triton.bipartite_merge import mean as fused

        return Merged(fused(hidden, weight.view_as(size), row), total, total > 0, row)
    parts = hidden.flatten(0, 1).float() * weight[:, None]
    mean = torch.zeros_like(parts).index_add(0, flat, parts)
    return Merged(mean.view_as(hidden).to(hidden.dtype), total, total > 0, row)


@as_given
def bipartite_merge(
    hidden: Tensor, size: Tensor, metric: Tensor, valid: Tensor, threshold: float, protect: int = 0
) -> Merged:
    """One round of bipartite soft matching: tokens whose best partner is above `threshold` are merged into it.

    At most half of the tokens disappear. Several may share a target. In plain PyTorch on CUDA, three or more tokens are
    summed in no fixed order unless `torch.use_deterministic_algorithms(True)` is set.

    Args:
        hidden: (B, N, C) tokens.
        size: float32 (B, N), original tokens in each row.
        metric: (B, N, d), what similarity is measured on; DyMU takes the head-mean of a block's keys.
        valid: bool (B, N).
        threshold: cosine; at 1 or above nothing is merged.
        protect: leading valid tokens left alone (1 for a class token).
    """
    return merge(hidden, size, valid, match(metric, valid, protect), threshold)


def compact(hidden: Tensor, size: Tensor, valid: Tensor) -> Merged:
    """Drop rows nobody needs: valid rows move to the front, the longest sample sets the width.

    The one operation here that reads the device. `row` of the result tells where each row went; for rows that were
    dropped it is arbitrary. Where the longest sample fills the width, nothing moves.
    """
    width = max(1, int(valid.sum(1).amax()))
    if width == valid.shape[1]:
        return Merged(hidden, size, valid, torch.arange(width, device=valid.device).expand_as(valid))
    order = _valid_first(valid)[:, :width]
    row = (valid.cumsum(1) - 1).clamp(min=0)
    return Merged(_take(hidden, order), size.gather(1, order), valid.gather(1, order), row)


def unmerged_first(merged: Merged, edges: Edges) -> Merged:
    """The rows of a round in the order of the release: sources that were not merged, then targets, then what is empty.

    Which of two tokens is the source in the next round follows from that order. Leading tokens stay in front if there
    is but one of them (a class token).
    """
    is_source = torch.zeros_like(merged.valid).scatter(1, edges.source, True)
    order = torch.where(merged.valid, (~is_source).long(), 2).argsort(dim=1, stable=True)
    row = order.argsort(1).gather(1, merged.row)
    return Merged(_take(merged.hidden, order), merged.size.gather(1, order), merged.valid.gather(1, order), row)


@as_given
def pooled_threshold(score: Tensor, merges: int) -> float:
    """The threshold under which a batch would lose `merges` tokens: its first rejected edge, at least 0.

    Args:
        score: float32 (B, E) edge scores of `match`, -inf where there is no edge; all samples compete.
        merges: edges to accept over the whole batch. Where there are no more than that, all above 0 are accepted.
    """
    scores = score.flatten().sort(descending=True).values
    return max(0.0, float(scores[merges])) if merges < len(scores) else 0.0


def _unit(metric: Tensor) -> Tensor:
    """Unit vectors in float32; scaled first, since squares of extreme half-precision values overflow."""
    metric = metric.float()
    largest = metric.abs().amax(-1, keepdim=True)
    return torch.nn.functional.normalize(metric / largest.clamp(min=1e-30), dim=-1)


def _best(left: Tensor, right: Tensor, may_take: Tensor) -> tuple[Tensor, Tensor]:
    """For each of left (B, E, d) the largest product with right (B, F, d) where `may_take` (B, F), and the first index
    that comes within `TIE` of it."""
    (batch, sources, _), targets = left.shape, right.shape[1]
    most = chunk_of(left.device)
    # Whole samples together while they fit: how their rows are cut must not depend on how many samples there are.
    samples, rows = max(1, most // (sources * targets)), max(1, most // targets)
    values = left.new_empty(batch, sources)
    indices = torch.empty_like(values, dtype=torch.long)
    for b in range(0, batch, samples):
        some = slice(b, b + samples)
        other, closed = right[some].transpose(1, 2), ~may_take[some, None]
        for r in range(0, sources, rows):
            part = slice(r, r + rows)
            found = (left[some, part] @ other).masked_fill_(closed, -torch.inf)
            top = found.amax(2, keepdim=True)
            values[some, part] = top[..., 0]
            indices[some, part] = (found >= top - TIE).to(torch.uint8).argmax(2)
    return values, indices


def _last_least(score: Tensor, real: Tensor) -> Tensor:
    """bool (B, E): of the `real` ones, the last that comes within `TIE` of the smallest."""
    place = torch.arange(1, score.shape[1] + 1, device=score.device)
    least = score.masked_fill(~real, torch.inf).amin(1, keepdim=True)
    near = place * (real & (score <= least + TIE))
    return (place == near.amax(1, keepdim=True)) & real


def _valid_first(valid: Tensor) -> Tensor:
    """int64 (B, N): the rows of each sample, valid ones first, in order otherwise."""
    return (~valid).to(torch.uint8).argsort(dim=1, stable=True)


def _take(values: Tensor, index: Tensor) -> Tensor:
    """Rows `index` (B, M) of values (B, N, C)."""
    return values[torch.arange(len(index), device=index.device)[:, None], index]
