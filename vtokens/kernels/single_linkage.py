"""Clusters by single linkage: the spanning tree of a set of tokens with the largest cosines, and what edges connect."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vtokens.kernels._precision import TIE, as_given

_ROOM = 1 << 24
"""Most cosines held at once, in elements: 64 MiB."""


@dataclass(frozen=True, eq=False)
class Tree:
    """A spanning tree of each of S sets of up to M tokens, with M - 1 edges in M places.

    Attributes:
        weight: float32 (S, M), the cosine of each edge, -inf where there is none.
        first, second: int64 (S, M), the tokens that it connects, arbitrary where there is none.
    """

    weight: Tensor
    first: Tensor
    second: Tensor


@as_given
def spanning_tree(units: Tensor, valid: Tensor) -> Tree:
    """The spanning tree of each set whose cosines are largest, by the algorithm of Boruvka.

    In each of log2(M) rounds every part of the tree takes the best edge that leaves it. Of edges of one cosine (within
    rounding of 1: equal tokens) that of the earlier tokens is better, so that nothing depends on a batch.

    Args:
        units: float (S, M, D), tokens of unit length.
        valid: bool (S, M), False on what takes no part.
    """
    label, most = _own(valid), units.shape[1]
    weight, edge = torch.full(valid.shape, -torch.inf, device=valid.device), torch.zeros_like(label)
    none = most * most
    for _ in range(max(1, most - 1).bit_length()):
        best, pair = _leaving(units.float(), valid, label)
        of_part = torch.full_like(weight, -torch.inf).scatter_reduce(1, label, best, "amax")
        pair = pair.masked_fill(best < of_part.gather(1, label), none)
        pair = torch.full_like(label, none).scatter_reduce(1, label, pair, "amin")
        found, pair = pair < none, pair.clamp(max=none - 1)
        label, absorbed = _joined(label, found, pair // most, pair % most)
        weight, edge = torch.where(absorbed, of_part, weight), torch.where(absorbed, pair, edge)
    return Tree(weight, edge // most, edge % most)


def linked(tree: Tree, on: Tensor) -> Tensor:
    """int64 (S, M): the first of all tokens that the edges `on` (bool (S, M)) connect a token with, itself at least."""
    label, none = _own(on), on.shape[1]
    first, second = tree.first, tree.second
    for _ in range(max(1, none - 1).bit_length()):
        one, other = label.gather(1, first), label.gather(1, second)
        edge = _own(on).masked_fill(~on | (one == other), none)
        of_part = (
            torch.full_like(label, none).scatter_reduce(1, one, edge, "amin").scatter_reduce(1, other, edge, "amin")
        )
        found, of_part = of_part < none, of_part.clamp(max=none - 1)
        label, _ = _joined(label, found, first.gather(1, of_part), second.gather(1, of_part))
    return torch.full_like(label, none).scatter_reduce(1, label, _own(on), "amin").gather(1, label)


def _own(like: Tensor) -> Tensor:
    return torch.arange(like.shape[1], device=like.device).expand(like.shape)


def _joined(label: Tensor, found: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """The parts (S, M) once each part that `found` an edge joins what lies at its other end, and which were absorbed.

    Parts are called by one of their tokens. Edges are in one strict order, of which each part took its best, so that
    what points to each other in a circle are pairs, of which the earlier absorbs the later.
    """
    own, one, other = _own(label), label.gather(1, first), label.gather(1, second)
    goes = torch.where(found, torch.where(one == own, other, one), own)
    absorbed = found & ~((goes.gather(1, goes) == own) & (own < goes))
    goes = torch.where(absorbed, goes, own)
    for _ in range(label.shape[1].bit_length()):
        goes = goes.gather(1, goes)
    return goes.gather(1, label), absorbed


def _leaving(units: Tensor, valid: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Of each token the largest cosine with one of another part, -inf if there is none, and that edge: (S, M) each.

    An edge of tokens i < j is i * M + j, and its cosine is worked out once, for both.
    """
    sets, most, _ = units.shape
    best, pair = torch.full(valid.shape, -torch.inf, device=valid.device), torch.full_like(label, most * most)
    number = torch.arange(most, device=valid.device)

    def better(at: slice, cosine: Tensor, edge: Tensor) -> None:
        take = (cosine > best[:, at]) | ((cosine == best[:, at]) & (edge < pair[:, at]))
        best[:, at], pair[:, at] = torch.where(take, cosine, best[:, at]), torch.where(take, edge, pair[:, at])

    step = max(1, _ROOM // (sets * most))
    for begin in range(0, most, step):
        rows = slice(begin, begin + step)
        cosine = units[:, rows] @ units.transpose(1, 2)
        inside = (label[:, rows, None] == label[:, None]) | (number <= number[rows, None])
        shut = inside | ~valid[:, rows, None] | ~valid[:, None]
        cosine = cosine.masked_fill(cosine > 1 - TIE, 1).masked_fill(shut, -torch.inf)
        row, column = cosine.amax(2), cosine.amax(1)
        second = torch.where((cosine == row[..., None]) & ~shut, number, most).amin(2)
        first = torch.where((cosine == column[:, None]) & ~shut, number[rows, None], most).amin(1)
        better(rows, row, (number[rows] * most + second).masked_fill(second == most, most * most))
        better(slice(None), column, (first * most + number).masked_fill(first == most, most * most))
    return best, pair
