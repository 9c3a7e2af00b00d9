"""Attention in proportion to sizes where one row attends: a mask over keys says what the wider heads say."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.families import build
from vtokens.engine.attention.tap import AttentionCall


@pytest.mark.parametrize("heads", [(4, 4), (6, 2)])
@pytest.mark.parametrize("mask", [None, "bool", "float"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_is_softmax_with_the_bias(heads: tuple[int, int], mask: str | None, dtype: torch.dtype) -> None:
    """Against float64, with heads that share keys, for sizes of all heads and of each."""
    made = torch.Generator().manual_seed(0)
    many, few = heads
    query, key, value = (
        torch.randn(2, count, rows, 16, generator=made).to(dtype) for count, rows in ((many, 1), (few, 9), (few, 9))
    )
    shown = torch.ones(2, 1, 1, 9, dtype=torch.bool)
    shown[1, ..., :4] = False
    low = torch.finfo(dtype).min
    given = {None: None, "bool": shown, "float": torch.zeros(2, 1, 1, 9, dtype=dtype).masked_fill(~shown, low)}[mask]
    module: nn.Module = build("llava")[0].model.language_model.layers[0].self_attn
    module.num_key_value_groups = many // few
    for bias in (torch.rand(2, 9, generator=made) * 4, torch.rand(2, few, 9, generator=made) * 4):
        call = AttentionCall(module, query, key, value, given, {"scaling": 0.25}, bias)
        assert call._is_step
        got = call.run()[0]
        wide = call._with_bias(bias).run()[0][..., :16]
        more = (bias if bias.dim() == 3 else bias[:, None].expand(-1, few, -1)).double()
        scores = query.double().view(2, few, many // few, 16) @ key.double().transpose(2, 3) * 0.25 + more[:, :, None]
        if mask is not None:
            scores = scores.masked_fill(~shown, -torch.inf)
        expected = (scores.softmax(-1) @ value.double()).view(2, 1, many, 16)
        assert got.shape == (2, 1, many, 16)
        for found in (got, wide):
            torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-6 if dtype == torch.float32 else 0.03)
