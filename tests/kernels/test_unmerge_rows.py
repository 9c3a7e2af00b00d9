"""`unmerge_rows` against attention over explicit copies in float64."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vtokens.kernels import rotate, unfold, unmerge_rows


def explicit(problem: dict) -> Tensor:
    """Softmax over a matrix of all copies, one head at a time, in float64."""
    q, k, v = (problem[name].double() for name in ("query", "key", "value"))
    member, angle = problem["member"], torch.cat([problem["angle"]] * 2, -1)
    keys = rotate(unfold(k, member), angle.real.double(), angle.imag.double())
    values = unfold(v, member)
    shared, out = q.shape[1] // k.shape[1], []
    for h in range(q.shape[1]):
        scores = q[:, h] @ keys[:, h // shared].transpose(1, 2) * problem["scaling"]
        if problem["valid"] is not None:
            scores = scores.masked_fill(~problem["valid"][:, None], -torch.inf)
        out.append(scores.softmax(-1) @ values[:, h // shared])
    return torch.stack(out, 1)


@st.composite
def problems(draw: st.DrawFn) -> dict:
    """Grouped heads, any map, any angles, padding."""
    batch, unique, length = (draw(st.integers(*bounds)) for bounds in ((1, 3), (1, 5), (1, 9)))
    kv_heads, shared, rows = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9999)))
    valid = torch.rand(batch, length, generator=generator) > 0.3
    valid[:, -1] = True
    turn = 6 * torch.rand(batch, length, 4, generator=generator)
    return {
        "query": torch.randn(batch, kv_heads * shared, rows, 8, generator=generator),
        "key": torch.randn(batch, kv_heads, unique, 8, generator=generator),
        "value": torch.randn(batch, kv_heads, unique, 6, generator=generator),
        "member": torch.randint(0, unique, (batch, length), generator=generator),
        "angle": torch.complex(turn.cos(), turn.sin()),
        "scaling": draw(st.sampled_from([0.35, 1.0])),
        "valid": draw(st.sampled_from([None, valid])),
    }


@given(problems())
def test_rows_equal_attention_over_copies(problem: dict) -> None:
    """Any heads, maps, padding and numbers of rows."""
    torch.testing.assert_close(unmerge_rows(**problem).double(), explicit(problem), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("dtype", "off"), [(torch.float16, 2e-3), (torch.bfloat16, 1e-2)])
def test_half_precision_rounds_the_output_only(dtype: torch.dtype, off: float) -> None:
    """Scores and probabilities are float32, whatever the model's precision."""
    problem = {
        "query": torch.randn(1, 4, 1, 16).to(dtype),
        "key": torch.randn(1, 2, 20, 16).to(dtype),
        "value": torch.randn(1, 2, 20, 16).to(dtype),
        "member": torch.randint(0, 20, (1, 50)),
        "angle": torch.polar(torch.ones(1, 50, 8), torch.rand(1, 50, 8)),
        "scaling": 0.25,
        "valid": None,
    }
    got = unmerge_rows(**problem)
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), explicit(problem), rtol=0, atol=off)


def test_large_scores_do_not_overflow() -> None:
    """Products of fp16 queries and keys beyond 65504: the largest wins, nothing is NaN."""
    query, key = torch.full((1, 1, 1, 4), 200.0).half(), torch.tensor([[[[200.0] * 4, [100.0] * 4]]]).half()
    value = torch.tensor([[[[1.0], [2.0]]]]).half()
    angle = torch.ones(1, 2, 2, dtype=torch.complex64)
    got = unmerge_rows(query, key, value, torch.tensor([[0, 1]]), angle, 0.5)
    assert got.item() == 1.0
