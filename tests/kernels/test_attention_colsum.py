"""`attention_colsum` and `attention_colmean` in plain PyTorch against sums over a dense softmax in float64."""

import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests import limits
from tests.kernels.oracle import DTYPES, dense, draw, scores_close
from vtokens.kernels import attention_colmean, attention_colsum, attention_rows


@st.composite
def problems(draw_from: st.DrawFn) -> dict:
    """Any heads, weights of rows, causal positions, padding and biases; rows that see nothing."""
    kv_heads, shared = draw_from(st.integers(1, 2)), draw_from(st.integers(1, 3))
    batch, rows, keys = (draw_from(st.integers(1, most)) for most in (3, 6, 20))
    torch.manual_seed(draw_from(st.integers(0, 9999)))
    query, key, _ = draw(batch, kv_heads * shared, kv_heads, rows, keys, 8)
    some = {
        "rows": torch.rand(batch, rows) * (torch.rand(batch, rows) > 0.3),
        "position": torch.randint(-1, keys, (batch, rows)),
        "valid": torch.rand(batch, keys) > 0.3,
        "bias": torch.randn(batch, keys).masked_fill(torch.rand(batch, keys) < 0.2, -torch.inf),
    }
    chosen = draw_from(st.sets(st.sampled_from(sorted(some))))
    return {"query": query, "key": key, "scaling": 0.3} | {name: some[name] for name in chosen}


def parts(problem: dict) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Shares (B, H, R, N), log-sum-exps (B, H, R) and weights (B, R) in float64, by the definition."""
    query, key = problem["query"], problem["key"]
    (batch, _, rows, _), keys = query.shape, key.shape[2]
    seen = torch.ones(batch, 1, rows, keys, dtype=torch.bool)
    if "position" in problem:
        seen &= torch.arange(keys) <= problem["position"][:, None, :, None]
    if "valid" in problem:
        seen &= problem["valid"][:, None, None]
    if "bias" in problem:
        bias, kv_heads = problem["bias"], key.shape[1]
        seen &= (bias != -torch.inf)[:, None, None]
        # A score is a product of channels: one more of them carries the bias.
        query = torch.cat([query, torch.ones_like(query[..., :1])], -1)
        carried = (bias.masked_fill(bias == -torch.inf, 0) / 0.3)[:, None, :, None].expand(-1, kv_heads, -1, -1)
        key = torch.cat([key, carried], -1)
    weight = problem.get("rows", torch.ones(batch, rows)).double()
    return *dense(query, key, seen, 0.3), weight


@given(problems())
def test_it_is_the_weighted_sum_of_rows(problem: dict) -> None:
    """Heads apart, averaged or the largest; with log-sum-exps given or found."""
    shares, lse, weight = parts(problem)
    expected = torch.einsum("bhrn,br->bhn", shares, weight)
    scores_close(attention_colsum(**problem), expected, 6)
    scores_close(attention_colsum(lse=lse.float(), **problem), expected, 20)
    scores_close(attention_colsum(heads="mean", **problem), expected.mean(1), 6)
    scores_close(attention_colsum(heads="max", **problem), expected.amax(1), 6)


@given(problems())
def test_the_mean_is_by_weights(problem: dict) -> None:
    """Also where they add up to less than 1; a sample whose rows do not count gets zeros."""
    shares, _, weight = parts(problem)
    total = weight.sum(1, keepdim=True)
    expected = torch.einsum("bhrn,br->bn", shares, weight) / shares.shape[1] / total.masked_fill(total == 0, 1)
    scores_close(attention_colmean(**problem), expected, 1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_over_all_rows_it_adds_up_to_them(dtype: torch.dtype) -> None:
    """And equals the sum over `attention_rows`, in half precision too."""
    query, key, _ = draw(2, 4, 2, 40, 40, 64, dtype)
    place = torch.arange(40).expand(2, -1)
    got = attention_colsum(query, key, position=place)
    scores_close(got, dense(query, key, torch.ones(40, 40).tril().bool())[0].sum(2), 40, dtype)
    limits.close(got.sum(-1), torch.full((2, 4), 40.0), terms=128)
    limits.close(got, attention_rows(query, key, 1 / 8, place).sum(2), terms=128)


def test_shared_keys_equal_repeated_ones_and_order_does_not_matter() -> None:
    """Grouped-query attention is attention over repeated keys; keys in another order get the same."""
    query, key, _ = draw(2, 6, 2, 5, 20, 8)
    got, order = attention_colsum(query, key), torch.randperm(20)
    limits.close(attention_colsum(query, key.repeat_interleave(3, 1)), got, terms=128)
    limits.close(attention_colsum(query, key[:, :, order]), got[..., order], terms=128)


def test_rows_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """One row at a time gives what all together give."""
    query, key, _ = draw(2, 4, 2, 9, 30, 64)
    given = {"position": torch.randint(0, 30, (2, 9)), "lse": None}
    whole = attention_colsum(query, key, **given)
    monkeypatch.setattr(sys.modules["vtokens.kernels.attention_rows"], "_CHUNK", {"cpu": 1})
    limits.close(attention_colsum(query, key, **given), whole, terms=128)


def test_gradients_flow() -> None:
    """Of queries and keys, as through a dense softmax."""
    query, key = torch.randn(1, 2, 3, 4, requires_grad=True), torch.randn(1, 1, 5, 4, requires_grad=True)
    place = torch.tensor([[1, 2, -1]])
    attention_colsum(query, key, position=place)[..., 0].sum().backward()
    found = query.grad, key.grad
    scores = (query @ key.mT / 2).masked_fill(torch.arange(5) > place[:, None, :, None], -torch.inf)
    expected = torch.autograd.grad(scores[:, :, :2].softmax(-1)[..., 0].sum(), (query, key))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("rows", "keys"), [(0, 5), (3, 0)])
def test_nothing_to_sum(rows: int, keys: int) -> None:
    """Without rows there are zeros, without keys nothing."""
    query, key, _ = draw(2, 4, 2, rows, keys, 8)
    assert torch.equal(attention_colsum(query, key), torch.zeros(2, 4, keys))
    assert torch.equal(attention_colmean(query, key, 1.0), torch.zeros(2, keys))


def test_what_does_not_fit_is_named() -> None:
    """The message says what it is and what is needed."""
    query, key, _ = draw(2, 4, 2, 3, 5, 8)
    with pytest.raises(ValueError, match=r"query and key are \(2, 4, 3, 8\), \(2, 3, 5, 8\): .* H a multiple of H_kv"):
        attention_colsum(query, torch.ones(2, 3, 5, 8))
    with pytest.raises(ValueError, match=r"\(2, 2, 5, 6\): they must be \(B, H, R, D\) and \(B, H_kv, N, D\)"):
        attention_colsum(query, key[..., :6])
    with pytest.raises(TypeError, match=r"torch.float32, torch.float16: one floating-point dtype is needed"):
        attention_colsum(query, key.half())
    with pytest.raises(ValueError, match=r"position is \(2, 4\): \(2, 3\) is needed"):
        attention_colsum(query, key, position=torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"unknown reduction of heads 'meann'\. Did you mean 'mean'"):
        attention_colsum(query, key, heads="meann")  # type: ignore[arg-type]
