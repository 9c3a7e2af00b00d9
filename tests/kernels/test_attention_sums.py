"""`attention_sums`, in plain PyTorch and in Triton, against sums over a dense softmax in float64."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests import limits
from vtokens.kernels import attention_rows, attention_sums

module = sys.modules["vtokens.kernels.attention_sums"]  # the package has a function of that name


def dense(
    query: Tensor, key: Tensor, scaling: float, position: Tensor, group: Tensor, groups: int
) -> tuple[Tensor, Tensor]:
    """Columns (B, H, N) and bands (B, H, groups, ceil(N / 64)) in float64, pair by pair."""
    (batch, heads, rows, _), keys = query.shape, key.shape[2]
    place = torch.arange(keys)
    seen = ((group >= 0) & (group < groups))[:, None] & (place <= position[..., None])
    scores = query.double() @ key.double().repeat_interleave(heads // key.shape[1], 1).mT * scaling
    shares = scores.masked_fill(~seen[:, None], -torch.inf).softmax(-1).nan_to_num(0.0)
    bands = torch.zeros(batch, heads, groups, -(-keys // 64), dtype=torch.float64)
    for b in range(batch):
        for r in range(rows):
            for n in place[seen[b, r]].tolist():
                bands[b, :, group[b, n], (int(position[b, r]) - n) // 64] += shares[b, :, r, n]
    return shares.sum(2), bands


@st.composite
def problems(draw: st.DrawFn, most: int = 200) -> dict:
    """Any heads, rows anywhere (some nowhere), padding, one or more groups."""
    kv_heads, shared = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    batch, rows, keys = draw(st.integers(1, 2)), draw(st.integers(1, 8)), draw(st.integers(1, most))
    torch.manual_seed(draw(st.integers(0, 9999)))
    groups, dim = draw(st.integers(1, 3)), draw(st.sampled_from([4, 16]))
    return {
        "query": 2 * torch.randn(batch, kv_heads * shared, rows, dim),
        "key": 2 * torch.randn(batch, kv_heads, keys, dim),
        "scaling": dim**-0.5,
        "position": torch.randint(-1, keys, (batch, rows)),
        "group": torch.randint(-1, groups + 1, (batch, keys)),
        "groups": groups,
    }


def check(got: tuple[Tensor, Tensor], problem: dict, rounded: torch.dtype = torch.float32) -> None:
    """Both sums, and that bands add up to what columns of real groups do; scores are rounded to a dtype on the way."""
    for one, other in zip(got, dense(**problem), strict=True):
        assert one.dtype == torch.float32
        limit = limits.rounding(other, 320) + limits.rounding(1, 1, dtype=rounded)
        torch.testing.assert_close(one.double(), other, rtol=0, atol=limit)
    limits.close(got[0].sum(-1), got[1].sum((2, 3)), terms=320)


@given(problems())
def test_sums_equal_those_of_a_dense_softmax(problem: dict) -> None:
    """Any shapes; rows that stand nowhere or see no key add nothing."""
    check(attention_sums(**problem), problem)


@given(problems())
@settings(max_examples=50)
def test_keys_in_chunks(problem: dict) -> None:
    """Scores kept between the passes or computed twice, in chunks of one block of keys."""
    for kept in (0, 1 << 24):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "_CHUNK", 1)
            patch.setattr(module, "_KEPT", kept)
            check(attention_sums(**problem), problem)


def test_columns_are_sums_of_rows() -> None:
    """What `attention_rows` gives, row by row; over all keys they add up to the number of rows."""
    query, key = torch.randn(2, 4, 20, 16), torch.randn(2, 2, 300, 16)
    position = torch.arange(280, 300).expand(2, -1)
    column, band = attention_sums(query, key, 0.25, position, torch.zeros(2, 300, dtype=torch.long))
    limits.close(column, attention_rows(query, key, 0.25, position).sum(2), terms=320)
    limits.close(column.sum(-1), torch.full((2, 4), 20.0), terms=320)
    limits.close(band.sum((-1, -2)), torch.full((2, 4), 20.0), terms=320)


def test_a_diagonal_by_hand() -> None:
    """Rows that attend to the key 70 before them alone: all of it in the second band."""
    keys = torch.eye(128)
    position = torch.tensor([[70, 99, 127]])
    query = keys[position - 70][:, None] * 1000
    column, band = attention_sums(query, keys[None, None], 1.0, position, torch.zeros(1, 128, dtype=torch.long))
    assert band[0, 0, 0].tolist() == [0.0, 3.0]
    assert column[0, 0].nonzero().flatten().tolist() == [0, 29, 57]


def test_large_activations_do_not_overflow() -> None:
    """Products of float16 numbers beyond 65504 are finite after scaling."""
    query, key = torch.full((1, 1, 1, 64), 90.0).half(), torch.zeros(1, 1, 2, 64).half()
    key[:, :, 1] = 90
    column, _ = attention_sums(query, key, 2**-18, torch.tensor([[1]]), torch.zeros(1, 2, dtype=torch.long))
    limits.close(column[0, 0], torch.tensor([0.0, 64 * 8100 * 2**-18]).softmax(0), terms=320)


@pytest.mark.parametrize("keys", [0, 5])
def test_nothing_to_sum(keys: int) -> None:
    """Without rows or without keys."""
    rows = 0 if keys else 3
    position, group = torch.zeros(2, rows, dtype=torch.long), torch.zeros(2, keys, dtype=torch.long)
    column, band = attention_sums(torch.ones(2, 4, rows, 8), torch.ones(2, 2, keys, 8), 1.0, position, group, 2)
    assert (column.shape, band.shape) == ((2, 4, keys), (2, 4, 2, bool(keys)))
    assert (column == 0).all()


def test_shapes_that_do_not_fit() -> None:
    """The message says what they are and what is needed."""
    place = torch.zeros(1, 3, dtype=torch.long)
    with pytest.raises(ValueError, match=r"position \(1, 3\) and group \(1, 3\) do not fit: .* \(B, R\) and \(B, N\)"):
        attention_sums(torch.ones(1, 2, 3, 8), torch.ones(1, 2, 4, 8), 1.0, place, place)
    with pytest.raises(ValueError, match="H a multiple of H_kv"):
        attention_sums(torch.ones(1, 3, 3, 8), torch.ones(1, 2, 3, 8), 1.0, place, place)


def fused() -> Callable[..., tuple[Tensor, Tensor]]:
    """The Triton version, its outputs filled with NaN before."""
    pytest.importorskip("triton")
    from vtokens.kernels._triton.attention_sums import attention_sums as kernel

    device = "cuda" if torch.cuda.is_available() else "cpu"

    def run(**problem: object) -> tuple[Tensor, Tensor]:
        moved = {name: part.to(device) if isinstance(part, Tensor) else part for name, part in problem.items()}
        torch.use_deterministic_algorithms(True)
        try:
            column, parts = kernel(**moved)
        finally:
            torch.use_deterministic_algorithms(False)
        return column.cpu(), module.bands(parts.cpu(), problem["position"])

    return run


@given(problems(130))
@settings(max_examples=8)  # each tile takes milliseconds in the interpreter
def test_triton_equals_a_dense_softmax(problem: dict) -> None:
    """In the interpreter or on a GPU, the keys split over programs or not; everything is written."""
    for splits in (1, 3):
        check(fused()(splits=splits, **problem), problem)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_triton_in_half_precision(dtype: torch.dtype) -> None:
    """64 rows of rounded queries over rounded keys, head dims that are no power of two."""
    problem = {
        "query": torch.randn(1, 4, 64, 80).to(dtype), "key": torch.randn(1, 2, 150, 80).to(dtype), "scaling": 0.1,
        "position": torch.arange(86, 150)[None], "group": torch.randint(0, 2, (1, 150)), "groups": 2,
    }  # fmt: skip
    check(fused()(**problem), problem, dtype)
    turned = problem["key"].transpose(1, 2).contiguous().transpose(1, 2)
    check(fused()(**(problem | {"key": turned})), problem, dtype)


def test_the_public_function_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """`VTOKENS_KERNELS=triton`."""
    pytest.importorskip("triton")
    monkeypatch.setenv("VTOKENS_KERNELS", "triton")
    problem = {
        "query": torch.randn(1, 2, 5, 16), "key": torch.randn(1, 1, 70, 16), "scaling": 0.3,
        "position": torch.randint(-1, 70, (1, 5)), "group": torch.randint(-1, 2, (1, 70)), "groups": 2,
    }  # fmt: skip
    check(attention_sums(**problem), problem)
