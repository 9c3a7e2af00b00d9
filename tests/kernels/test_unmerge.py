"""Virtual token unmerging against full attention and against the decomposition of its paper, both in float64."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests import limits
from vtokens.kernels import group_mean, rotate, unfold, unmerge_attention


def rotary(position: Tensor, dim: int, base: float = 10.0) -> tuple[Tensor, Tensor]:
    """cos and sin (B, N, D) of positions (B, N), float64."""
    angle = position.double()[..., None] * base ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    angle = torch.cat([angle, angle], -1)
    return angle.cos(), angle.sin()


def decomposed_scores(query: Tensor, key: Tensor, member: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Scores (N, N) of one head by the sum over half-dimensions of the paper, which never forms rotated vectors.

    query, key: (U, D) un-rotated; member: (N,); cos, sin: (N, D).
    """
    half = query.shape[1] // 2
    copies = torch.nn.functional.one_hot(member, len(query)).double()
    total = torch.zeros(len(member), len(member), dtype=torch.float64)
    for d in range(half):
        even = query[:, d, None] * key[:, d] + query[:, d + half, None] * key[:, d + half]
        odd = query[:, d, None] * key[:, d + half] - query[:, d + half, None] * key[:, d]
        even, odd = copies @ even @ copies.T, copies @ odd @ copies.T
        c, s = torch.diag(cos[:, d]), torch.diag(sin[:, d])
        total += c @ even @ c + s @ even @ s + s @ odd @ c - c @ odd @ s
    return total


def mean_of_copies(full: Tensor, member: Tensor, unique: int) -> Tensor:
    """(N, D) -> (U, D), one group at a time."""
    rows = [full[member == u].mean(0) if (member == u).any() else torch.zeros_like(full[0]) for u in range(unique)]
    return torch.stack(rows)


@st.composite
def problems(draw: st.DrawFn) -> dict:
    """Unique states with grouped heads, any map with left padding, any positions."""
    batch, unique, length = draw(st.integers(1, 3)), draw(st.integers(1, 5)), draw(st.integers(1, 9))
    kv_heads, shared, dim = draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.sampled_from([2, 4, 8]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9999)))
    member = torch.randint(0, unique, (batch, length), generator=generator)
    for row in range(batch):
        member[row, : draw(st.integers(0, length - 1))] = -1
    position = torch.randint(0, 40, (batch, length), generator=generator)
    shape = (unique, dim)
    return {
        "query": torch.randn(batch, kv_heads * shared, *shape, generator=generator, dtype=torch.float64),
        "key": torch.randn(batch, kv_heads, *shape, generator=generator, dtype=torch.float64),
        "value": torch.randn(batch, kv_heads, *shape, generator=generator, dtype=torch.float64),
        "member": member,
        "position": position,
    }


@given(problems())
def test_scores_equal_the_decomposition(problem: dict) -> None:
    """Rotated copies give the scores that sums over cos and sin of unique products give, to 1e-12."""
    q, k, member = problem["query"], problem["key"], problem["member"].clamp(min=0)
    cos, sin = rotary(problem["position"], q.shape[-1])
    rotated_q, rotated_k = (rotate(unfold(x, member), cos, sin) for x in (q, k))
    shared = q.shape[1] // k.shape[1]
    for b in range(len(q)):
        for h in range(q.shape[1]):
            got = rotated_q[b, h] @ rotated_k[b, h // shared].T
            expected = decomposed_scores(q[b, h], k[b, h // shared], member[b], cos[b], sin[b])
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


@given(problems())
def test_outputs_equal_the_decomposition(problem: dict) -> None:
    """Softmax of those scores, causal, without padding, times the copies' values, averaged over each group."""
    q, k, v, member = (problem[name] for name in ("query", "key", "value", "member"))
    cos, sin = rotary(problem["position"], q.shape[-1])
    got = unmerge_attention(q, k, v, member, cos, sin)
    shared = q.shape[1] // k.shape[1]
    for b in range(len(q)):
        real = member[b] >= 0
        m = member[b, real]
        for h in range(q.shape[1]):
            scores = decomposed_scores(q[b, h], k[b, h // shared], m, cos[b, real], sin[b, real])
            later = torch.ones(len(m), len(m), dtype=torch.bool).triu(1)
            probability = (scores / math.sqrt(q.shape[-1])).masked_fill(later, -torch.inf).softmax(-1)
            expected = mean_of_copies(probability @ v[b, h // shared, m], m, q.shape[2])
            limits.close(got[b, h].float(), expected, terms=16)  # means are taken in float32


def test_rotation_is_its_definition_and_has_its_gradient() -> None:
    """Each pair of dimensions as a complex number times cos + i sin; dtypes are promoted."""
    states = torch.randn(2, 3, 5, 8, requires_grad=True, dtype=torch.float64)
    cos, sin = rotary(torch.randint(0, 40, (2, 5)), 8)
    turned = torch.complex(*states.chunk(2, -1)) * torch.complex(cos, sin)[:, None, :, :4]
    expected, weight = torch.cat([turned.real, turned.imag], -1), torch.randn(2, 3, 5, 8).double()
    got = rotate(states, cos, sin)
    torch.testing.assert_close(got, expected)
    (slope,), (true,) = (torch.autograd.grad((part * weight).sum(), states) for part in (got, expected))
    torch.testing.assert_close(slope, true)
    assert rotate(states.bfloat16(), cos.float(), sin.float()).dtype == torch.float32


def test_an_identity_map_is_full_attention() -> None:
    """Nothing merged: ordinary rotary attention, to 1e-5 in float32."""
    q, k, v = torch.randn(2, 4, 7, 16), torch.randn(2, 2, 7, 16), torch.randn(2, 2, 7, 16)
    cos, sin = (part.float() for part in rotary(torch.arange(7).expand(2, 7), 16))
    got = unmerge_attention(q, k, v, torch.arange(7).expand(2, 7), cos, sin)
    expected = torch.nn.functional.scaled_dot_product_attention(
        rotate(q, cos, sin), rotate(k, cos, sin), v, is_causal=True, enable_gqa=True
    )
    limits.close(got, expected, terms=16)


def test_duplicates_equal_full_attention() -> None:
    """States that really are copies give what the full sequence gives, averaged: exact in the first layer, to 1e-5."""
    member = torch.tensor([[0, 1, 2, 1, 1, 3, 2, 4]])
    unique = [torch.randn(1, heads, 5, 8) for heads in (4, 2, 2)]
    q, k, v = (unfold(states, member) for states in unique)
    cos, sin = (part.float() for part in rotary(torch.arange(8)[None], 8))
    full = torch.nn.functional.scaled_dot_product_attention(
        rotate(q, cos, sin), rotate(k, cos, sin), v, is_causal=True, enable_gqa=True
    )
    expected = torch.stack([mean_of_copies(full[0, h], member[0], 5) for h in range(4)])[None]
    limits.close(unmerge_attention(*unique, member, cos, sin), expected, terms=16)


def test_quarter_turns_by_hand() -> None:
    """D = 2, all states (1, 0), angles 0 and a quarter turn: the scores are the identity matrix."""
    states, member = torch.tensor([[[[1.0, 0.0]]]]), torch.zeros(1, 2, dtype=torch.long)
    cos, sin = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]]), torch.tensor([[[0.0, 0.0], [1.0, 1.0]]])
    turned = rotate(unfold(states, member), cos, sin)[0, 0]
    torch.testing.assert_close(turned @ turned.T, torch.eye(2))


def test_proportional_attention_is_attention_over_duplicates() -> None:
    """log(size) added to the score of a key counts it `size` times, to 1e-12: what merged towers rely on."""
    q, k, v = torch.randn(1, 1, 3, 4).double(), torch.randn(1, 1, 3, 4).double(), torch.randn(1, 1, 3, 4).double()
    size = torch.tensor([1.0, 4.0, 2.0]).double()
    weighed = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=size.log().expand(1, 1, 3, 3))
    member = torch.tensor([[0, 1, 1, 1, 1, 2, 2]])
    repeated = torch.nn.functional.scaled_dot_product_attention(q, unfold(k, member), unfold(v, member))
    torch.testing.assert_close(weighed, repeated, rtol=0, atol=1e-12)


@given(problems())
def test_the_mean_is_idempotent_and_linear(problem: dict) -> None:
    """Averaging copies of averages changes nothing, and an output projection may come before or after."""
    member, unique = problem["member"], problem["query"].shape[2]
    full = torch.randn(len(member), 2, member.shape[1], 4)
    mean = group_mean(full, member, unique)
    limits.close(group_mean(unfold(mean, member), member, unique), mean, terms=16)
    weight = torch.randn(4, 3)
    limits.close(group_mean(full @ weight, member, unique), mean @ weight, terms=16)


@pytest.mark.parametrize(("dtype", "big"), [(torch.float16, 6e4), (torch.bfloat16, 3e38)])
def test_means_of_extreme_values_stay_finite(dtype: torch.dtype, big: float) -> None:
    """Their sums overflow, their means do not; tokens of their own pass unchanged."""
    full = torch.full((1, 1, 6, 2), big).to(dtype)
    got = group_mean(full, torch.tensor([[0, 0, 0, 0, 0, 1]]), 3)
    torch.testing.assert_close(got[0, 0, :2], full[0, 0, :2])
    assert torch.equal(got[0, 0, 1], full[0, 0, 5])
    assert (got[0, 0, 2] == 0).all()


def test_everything_merged_into_one() -> None:
    """One unique token: every copy attends to copies of the same value, so that value comes back."""
    q, k, v = torch.randn(1, 4, 1, 8), torch.randn(1, 2, 1, 8), torch.randn(1, 2, 1, 8)
    cos, sin = (part.float() for part in rotary(torch.arange(9)[None], 8))
    got = unmerge_attention(q, k, v, torch.zeros(1, 9, dtype=torch.long), cos, sin)
    torch.testing.assert_close(got, v.repeat_interleave(2, 1))


def test_the_callers_attention_is_used() -> None:
    """It gets rotated copies, and keys and values of the key-value heads, never repeated."""
    seen = []

    def first_value(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        seen.append((q.shape, k.shape, v.shape))
        return v[:, :, :1].repeat_interleave(2, 1).expand(-1, -1, q.shape[2], -1)

    q, k, v = torch.randn(1, 4, 2, 8), torch.randn(1, 2, 2, 8), torch.randn(1, 2, 2, 8)
    cos, sin = (part.float() for part in rotary(torch.arange(3)[None], 8))
    got = unmerge_attention(q, k, v, torch.tensor([[1, 0, 1]]), cos, sin, first_value)
    assert seen == [((1, 4, 3, 8), (1, 2, 3, 8), (1, 2, 3, 8))]
    torch.testing.assert_close(got, v[:, :, 1:].repeat_interleave(2, 1).expand(-1, -1, 2, -1))


def test_what_does_not_fit_is_named() -> None:
    """The message says what it is and what is allowed."""
    q, k, v = torch.randn(1, 4, 2, 8), torch.randn(1, 2, 2, 8), torch.randn(1, 2, 2, 8)
    cos, sin = (part.float() for part in rotary(torch.arange(3)[None], 8))
    with pytest.raises(ValueError, match=r"member holds 2: 1 and below is allowed"):
        unmerge_attention(q, k, v, torch.tensor([[0, 2, -1]]), cos, sin)
    with pytest.raises(ValueError, match=r"cos is \(1, 3, 8\): \(1, 2, 8\) is needed"):
        unmerge_attention(q, k, v, torch.tensor([[0, 1]]), cos, sin)
    with pytest.raises(ValueError, match=r"query and key are \(1, 4, 1, 8\) and \(1, 2, 2, 8\): as many rows in both"):
        unmerge_attention(q[:, :, :1], k, v, torch.tensor([[0, 1, 1]]), cos, sin)
    with pytest.raises(TypeError, match=r"member is torch.float32: integers are needed"):
        unmerge_attention(q, k, v, torch.zeros(1, 3), cos, sin)
