"""`unmerge_rows` against attention over explicit copies in float64."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.kernels.test_unmerge import rotary
from vtokens.kernels import rotate, unfold, unmerge_rows


def explicit(problem: dict) -> Tensor:
    """Softmax over a matrix of all copies and ordinary keys, one head at a time, in float64."""
    q, k, v = (problem[name].double() for name in ("query", "key", "value"))
    member, unique, cos, sin = (problem[name] for name in ("member", "unique", "cos", "sin"))
    keys = torch.cat([rotate(unfold(k[:, :, :unique], member), cos.double(), sin.double()), k[:, :, unique:]], 2)
    values = torch.cat([unfold(v[:, :, :unique], member), v[:, :, unique:]], 2)
    shared, out = q.shape[1] // k.shape[1], []
    for h in range(q.shape[1]):
        scores = q[:, h] @ keys[:, h // shared].transpose(1, 2) * problem["scaling"]
        if problem["valid"] is not None:
            scores = scores.masked_fill(~problem["valid"][:, None], -torch.inf)
        out.append(scores.softmax(-1) @ values[:, h // shared])
    return torch.stack(out, 1)


@st.composite
def problems(draw: st.DrawFn) -> dict:
    """Grouped heads, any map, any number of ordinary keys behind the unique ones, padding."""
    batch, unique, length, tail = (draw(st.integers(*bounds)) for bounds in ((1, 3), (1, 5), (1, 9), (0, 4)))
    kv_heads, shared, rows = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9999)))
    valid = torch.rand(batch, length + tail, generator=generator) > 0.3
    valid[:, -1] = True
    cos, sin = rotary(torch.randint(0, 40, (batch, length), generator=generator), 8)
    return {
        "query": torch.randn(batch, kv_heads * shared, rows, 8, generator=generator),
        "key": torch.randn(batch, kv_heads, unique + tail, 8, generator=generator),
        "value": torch.randn(batch, kv_heads, unique + tail, 6, generator=generator),
        "member": torch.randint(0, unique, (batch, length), generator=generator),
        "cos": cos.float(),
        "sin": sin.float(),
        "scaling": draw(st.sampled_from([0.35, 1.0])),
        "unique": unique,
        "valid": draw(st.sampled_from([None, valid])),
    }


@given(problems())
def test_rows_equal_attention_over_copies(problem: dict) -> None:
    """Any heads, maps, padding and numbers of rows."""
    torch.testing.assert_close(unmerge_rows(**problem).double(), explicit(problem), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("dtype", "off"), [(torch.float16, 2e-3), (torch.bfloat16, 1e-2)])
def test_half_precision_rounds_the_output_only(dtype: torch.dtype, off: float) -> None:
    """Scores and probabilities are float32, whatever the model's precision."""
    cos, sin = (part.to(dtype) for part in rotary(torch.arange(50)[None], 16))
    problem = {
        "query": torch.randn(1, 4, 1, 16).to(dtype),
        "key": torch.randn(1, 2, 23, 16).to(dtype),
        "value": torch.randn(1, 2, 23, 16).to(dtype),
        "member": torch.randint(0, 20, (1, 50)),
        "cos": cos,
        "sin": sin,
        "scaling": 0.25,
        "unique": 20,
        "valid": None,
    }
    got = unmerge_rows(**problem)
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), explicit(problem), rtol=0, atol=off)


def test_large_scores_do_not_overflow() -> None:
    """Products of fp16 queries and keys beyond 65504: the largest wins, nothing is NaN."""
    query, key = torch.full((1, 1, 1, 4), 200.0).half(), torch.tensor([[[[200.0] * 4, [100.0] * 4]]]).half()
    value = torch.tensor([[[[1.0], [2.0]]]]).half()
    one, zero = torch.ones(1, 1, 4), torch.zeros(1, 1, 4)
    got = unmerge_rows(query, key, value, torch.zeros(1, 1, dtype=torch.long), one, zero, 0.5, unique=1)
    assert got.item() == 1.0
