"""The place of each value in an order: of all values, of the valid ones, or of those of its own part."""

from __future__ import annotations

import torch
from torch import Tensor


def rank(values: Tensor) -> Tensor:
    """int64: the place of each value in the rising order of the last dimension, from 0; ties to the earlier."""
    return _places(values.argsort(dim=-1, stable=True))


def falling_rank(scores: Tensor, valid: Tensor) -> Tensor:
    """int64 (..., M): the place of each score in the falling order of the last dimension, from 0; ties to the earlier.

    Args:
        scores: floating (..., M), without NaN.
        valid: bool (..., M); what is not comes behind all that is, however low that may be.
    """
    order = scores.argsort(dim=-1, descending=True, stable=True)
    return _places(order.gather(-1, (~valid).gather(-1, order).long().argsort(dim=-1, stable=True)))


def rank_in(part: Tensor, scores: Tensor, valid: Tensor) -> Tensor:
    """int64 (G, M): the place of each token in the falling order of its part's scores, from 0; ties to the earlier.

    Args:
        part: int64 (G, M), equal numbers for tokens of one part.
        scores: floating (G, M).
        valid: bool (G, M), False on padding, which is a part of its own.
    """
    order = scores.masked_fill(~valid, -torch.inf).argsort(dim=1, descending=True, stable=True)
    grouped = part.masked_fill(~valid, torch.iinfo(torch.long).max).gather(1, order)
    again = grouped.argsort(dim=1, stable=True)
    order, grouped = order.gather(1, again), grouped.gather(1, again)
    number = torch.arange(part.shape[1], device=part.device).expand_as(part)
    begins = torch.nn.functional.pad(grouped[:, 1:] != grouped[:, :-1], (1, 0), value=True)
    start = torch.where(begins, number, 0).cummax(1).values
    return torch.zeros_like(order).scatter_(1, order, number - start)


def _places(order: Tensor) -> Tensor:
    """Where each index stands in an order of the last dimension."""
    number = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, number)
