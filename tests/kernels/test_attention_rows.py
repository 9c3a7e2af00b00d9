"""`attention_rows` and `attention_colmean` against a dense softmax in float64."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests import limits
from vtokens.kernels import attention_colmax, attention_colmean, attention_rows


def dense(
    query: Tensor, key: Tensor, scaling: float, position: Tensor | None = None, valid: Tensor | None = None
) -> Tensor:
    """Attention probabilities (B, H, R, N) in float64, one head and one row at a time; rows without keys are zero."""
    (batch, heads, rows, _), (_, kv_heads, keys, _) = query.shape, key.shape
    out = torch.zeros(batch, heads, rows, keys, dtype=torch.float64)
    for b in range(batch):
        for h in range(heads):
            k = key[b, h // (heads // kv_heads)].double()
            for r in range(rows):
                allowed = torch.ones(keys, dtype=torch.bool) if valid is None else valid[b].clone()
                if position is not None:
                    allowed[int(position[b, r]) + 1 :] = False
                if allowed.any():
                    out[b, h, r, allowed] = (k[allowed] @ query[b, h, r].double() * scaling).softmax(-1)
    return out


def draw(
    batch: int, heads: int, kv_heads: int, rows: int, keys: int, dim: int = 8, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Random q (B, H, R, D) and k (B, H_kv, N, D), wide enough that rows are far from uniform."""
    generator = torch.Generator().manual_seed(seed)
    query = 2 * torch.randn(batch, heads, rows, dim, generator=generator)
    return query, 2 * torch.randn(batch, kv_heads, keys, dim, generator=generator)


@st.composite
def problems(draw_from: st.DrawFn) -> dict:
    """Shapes with and without grouped heads, causal positions and padding."""
    kv_heads, group = draw_from(st.integers(1, 3)), draw_from(st.integers(1, 3))
    batch, rows, keys = draw_from(st.integers(1, 3)), draw_from(st.integers(1, 6)), draw_from(st.integers(1, 9))
    query, key = draw(batch, kv_heads * group, kv_heads, rows, keys, seed=draw_from(st.integers(0, 9999)))
    booleans = st.lists(st.booleans(), min_size=batch * keys, max_size=batch * keys)
    places = st.lists(st.integers(0, keys - 1), min_size=batch * rows, max_size=batch * rows)
    valid, position = draw_from(st.none() | booleans), draw_from(st.none() | places)
    return {
        "query": query,
        "key": key,
        "scaling": draw_from(st.sampled_from([0.1, 8**-0.5, 1.0])),
        "position": None if position is None else torch.tensor(position).view(batch, rows),
        "valid": None if valid is None else torch.tensor(valid).view(batch, keys),
    }


@given(problems())
def test_rows_equal_a_dense_softmax(problem: dict) -> None:
    """Any heads, causal positions and padding; a row sums to 1, or to 0 where it may see no key at all."""
    expected = dense(**problem)
    got = attention_rows(**problem)
    assert got.dtype == torch.float32
    limits.close(got, expected, terms=64)
    seen = expected.sum(-1) > 0.5
    limits.close(got.sum(-1), seen.double(), terms=64)


@given(problems(), st.data())
def test_colmean_is_the_weighted_mean_of_rows(problem: dict, data: st.DataObject) -> None:
    """The mean over heads and over the rows chosen, sample by sample; without rows a sample gets zeros."""
    batch, _, rows, _ = problem["query"].shape
    flags = data.draw(st.none() | st.lists(st.booleans(), min_size=batch * rows, max_size=batch * rows))
    chosen = None if flags is None else torch.tensor(flags).view(batch, rows)
    probability = dense(**problem).mean(1)
    weight = torch.ones(batch, rows) if chosen is None else chosen.float()
    expected = torch.einsum("brn,br->bn", probability, weight.double())
    expected /= weight.double().sum(1, keepdim=True).clamp(min=1)
    got = attention_colmean(rows=chosen, **problem)
    limits.close(got, expected, terms=64)


@given(problems(), st.data())
def test_colmax_is_the_most_of_any_row(problem: dict, data: st.DataObject) -> None:
    """Over heads and over the rows chosen, sample by sample; without rows a sample gets zeros."""
    batch, _, rows, _ = problem["query"].shape
    flags = data.draw(st.none() | st.lists(st.booleans(), min_size=batch * rows, max_size=batch * rows))
    chosen = None if flags is None else torch.tensor(flags).view(batch, rows)
    probability = dense(**problem)
    if chosen is not None:
        probability = probability * chosen[:, None, :, None]
    limits.close(attention_colmax(rows=chosen, **problem), probability.amax((1, 2)), terms=64)


def test_causal_rows_with_an_offset() -> None:
    """Rows of a second chunk of a prompt see what was cached before them, and nothing after themselves."""
    query, key = draw(2, 4, 2, rows=3, keys=8)
    position = torch.tensor([[5, 6, 7]]).expand(2, 3)
    got = attention_rows(query, key, 0.3, position)
    for row, last in enumerate((5, 6, 7)):
        assert (got[:, :, row, last + 1 :] == 0).all()
        assert (got[:, :, row, : last + 1] > 0).all()
    # The same rows of the whole square matrix.
    whole = attention_rows(torch.cat([torch.zeros(2, 4, 5, 8), query], 2), key, 0.3, torch.arange(8).expand(2, 8))
    limits.close(got, whole[:, :, 5:], terms=64)


@given(st.integers(0, 9999), st.permutations(range(7)))
def test_permuting_keys_permutes_probabilities(seed: int, order: list[int]) -> None:
    """Attention without a mask does not know where a key stands."""
    query, key = draw(2, 4, 2, rows=3, keys=7, seed=seed)
    valid = torch.rand(2, 7, generator=torch.Generator().manual_seed(seed)) > 0.3
    permuted = attention_colmean(query, key[:, :, order], 0.4, valid=valid[:, order])
    limits.close(permuted, attention_colmean(query, key, 0.4, valid=valid)[:, order], terms=64)


def test_samples_of_a_batch_do_not_meet() -> None:
    """Each sample gives what it gives alone, whatever its neighbours hold."""
    query, key = draw(3, 4, 2, rows=5, keys=9)
    position, valid = torch.randint(0, 9, (3, 5)), torch.rand(3, 9) > 0.3
    chosen = torch.rand(3, 5) > 0.4
    together = attention_colmean(query, key, 0.4, chosen, position, valid)
    for row in range(3):
        one = slice(row, row + 1)
        alone = attention_colmean(query[one], key[one], 0.4, chosen[one], position[one], valid[one])
        limits.close(together[one], alone, terms=64)


@pytest.mark.parametrize("causal", [False, True])
def test_many_rows_are_taken_in_chunks(causal: bool) -> None:
    """2^18 probabilities a query row and 70 rows, more than are held at once: nothing is lost at the seams."""
    query, key = draw(2, 32, 8, rows=70, keys=4096, dim=4)
    chosen = torch.arange(70).expand(2, 70) % 3 > 0
    position = (torch.arange(70) + 4026).expand(2, 70) if causal else None
    got = attention_colmean(query, key, 0.5, chosen, position)
    expected = torch.zeros(2, 4096, dtype=torch.float64)
    places = torch.arange(4096)
    for b in range(2):
        for h in range(32):  # a head at a time, dense in float64
            scores = query[b, h].double() @ key[b, h // 4].double().T * 0.5
            if position is not None:
                scores = scores.masked_fill(places > position[b][:, None], -torch.inf)
            expected[b] += scores.softmax(-1)[chosen[b]].sum(0)
    expected /= 32 * chosen.sum(1, keepdim=True)
    limits.close(got, expected, terms=64)
    limits.close(got.sum(1), torch.ones(2), terms=64)


def test_half_precision_inputs_give_float32() -> None:
    """bfloat16 q and k: the products are rounded as a fused kernel rounds them, the softmax is not."""
    query, key = draw(1, 4, 2, rows=3, keys=50)
    got = attention_rows(query.bfloat16(), key.bfloat16(), 0.3)
    assert got.dtype == torch.float32
    limits.close(got.sum(-1), torch.ones(1, 4, 3), terms=64)
    torch.testing.assert_close(got, dense(query, key, 0.3).float(), rtol=0, atol=0.1)
