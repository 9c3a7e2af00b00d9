"""Capped scores, as Gemma 2 has them, in what computes attention by itself: against a dense softmax in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.kernels.test_attention_rows import draw
from tests.limits import close
from vtokens.kernels import (
    attention_colmax,
    attention_colmean,
    attention_rows,
    group_weights,
    grouped_attention,
    reweigh,
    reweighed_attention,
)

CAP, SCALING = 1.5, 8**-0.5
POSITION = torch.tensor([[4, 8, 2], [8, 0, 5]])


def dense(query: Tensor, key: Tensor) -> Tensor:
    """(B, H, R, N) in float64."""
    scores = query.double() @ key.double().repeat_interleave(2, 1).mT * SCALING
    scores = CAP * torch.tanh(scores / CAP)
    seen = torch.arange(9) <= POSITION[:, None, :, None]
    return scores.masked_fill(~seen, -torch.inf).softmax(-1)


@pytest.fixture
def states() -> tuple[Tensor, Tensor]:
    """Queries (2, 4, 3, 8) and keys (2, 2, 9, 8)."""
    return draw(2, 4, 2, 3, 9, seed=5)


def test_rows_and_what_keys_receive(states: tuple[Tensor, Tensor]) -> None:
    expected = dense(*states)
    close(attention_rows(*states, SCALING, POSITION, softcap=CAP), expected.float(), 9)
    mean = attention_colmean(*states, SCALING, position=POSITION, softcap=CAP)
    close(mean, expected.mean((1, 2)).float(), 9)
    close(attention_colmax(*states, SCALING, position=POSITION, softcap=CAP), expected.amax((1, 2)).float(), 9)
    assert (attention_colmean(*states, SCALING, position=POSITION) - mean).abs().max() > 0.05


def test_groups_of_keys(states: tuple[Tensor, Tensor]) -> None:
    value = draw(2, 2, 2, 9, 9, seed=6)[1]
    group = torch.tensor([0, 1, 1, 0, 1, 0, 0, 1, 1]).expand(2, -1)
    expected = (dense(*states) @ value.double().repeat_interleave(2, 1)).float()
    outputs, lse = grouped_attention(*states, value, group, 2, SCALING, POSITION, CAP)
    close(reweigh(outputs, group_weights(lse)), expected, 9, 2)
    close(reweighed_attention(*states, value, group, 2, SCALING, lambda share: share, POSITION, CAP)[0], expected, 9, 2)
