"""Positions in time, height and width (M-RoPE) of prompts of which pictures have fewer tokens than their grids.

Text keeps the positions that it has behind whole pictures, and kept tokens those of their cells, as `attach` leaves
them. Where text stands is known when a prompt is scheduled, which tokens stay when the tower has run: until then a
token of a picture has the position of its first cell, and beside its features it brings what is to be added.

    whole        t0  v0  v1  v2  v3  t1      rows 0 0 1 1, columns 0 1 0 1
    kept         t0  v1  v2  t1
    scheduled    0   1   1   3
    added            row 0, column 1; row 1, column 0
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

_BASE = 256
"""Numbers up to this are exact in bfloat16, so that a coordinate is two of them."""
CHANNELS = 6
"""Beside the features of a token: time, height and width of its cell, two each."""


class Run(NamedTuple):
    """The tokens of one picture in a prompt.

    Attributes:
        offset: where they begin.
        kept: how many there are.
        whole: how many there would be.
    """

    offset: int
    kept: int
    whole: int


def expanded(tokens: Sequence[int], runs: Sequence[Run]) -> tuple[list[int], list[int], Tensor]:
    """A prompt in which pictures have all their tokens.

    Args:
        tokens: the prompt as it is.
        runs: its pictures, in order.

    Returns:
        its tokens; where each picture begins in them; int64 (len(tokens),), where each token of `tokens` stands in
        them, those of a picture that lacks some where it begins.
    """
    found: list[int] = []
    starts: list[int] = []
    where: list[Tensor] = []
    done = 0
    for run in runs:
        where.append(torch.arange(len(found), len(found) + run.offset - done))
        found += tokens[done : run.offset]
        starts.append(len(found))
        own = torch.arange(run.kept) if run.kept == run.whole else torch.zeros(run.kept, dtype=torch.long)
        where.append(len(found) + own)
        # What stands there now is repeated, for items that hold text between their pictures.
        inside = list(tokens[run.offset : run.offset + run.kept])
        found += inside if run.kept == run.whole else inside[:1] * run.whole
        done = run.offset + run.kept
    where.append(torch.arange(len(found), len(found) + len(tokens) - done))
    found += tokens[done:]
    return found, starts, torch.cat(where)


def carried(features: Tensor, cells: Tensor | None = None) -> Tensor:
    """(K, D + 6): features (K, D), and behind them the cells of tokens, from where `taken` reads them.

    Args:
        features: floating, of any dtype that has the whole numbers up to 256.
        cells: int64 (K, 3), time, row and column, each below 65,536; None for tokens whose positions are right.
    """
    if cells is None:
        return torch.cat([features, features.new_zeros(len(features), CHANNELS)], 1)
    digits = torch.stack([cells // _BASE, cells % _BASE], 2).flatten(1)
    return torch.cat([features, digits.to(features)], 1)


def taken(rows: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
    """The features (K, D) of items, and int64 (3, sum of K), what `carried` says is to be added to their positions."""
    digits = torch.cat([one[:, -CHANNELS:] for one in rows]).long()
    return [one[:, :-CHANNELS] for one in rows], (digits[:, ::2] * _BASE + digits[:, 1::2]).T


def moved(positions: Tensor, added: Tensor, at: Tensor) -> None:
    """Add to the first positions (3, N) of a batch, in place: others read the same memory.

    Args:
        positions: int64 (3, N), with padding behind.
        added: int64 (3, K).
        at: bool (n,), the K tokens that these are for, n up to N.
    """
    at = at.to(positions.device)
    spread = torch.zeros(3, len(at), dtype=torch.long, device=positions.device)
    spread.masked_scatter_(at.expand(3, -1), added.to(spread).contiguous())
    positions[:, : len(at)] += spread
