"""The Triton versions of `unfold` and `group_mean`, and attention of merged tokens with them, against float64."""

import pytest
import torch
from torch import Tensor

from tests.kernels import oracle
from tests.kernels.oracle import DEVICE, DTYPES, LENGTHS, on_device
from tests.kernels.test_unmerge import mean_of_copies, rotary
from vtokens.kernels import group_mean, rotate, unfold, unmerge_attention

pytest.importorskip("triton")
from tests import limits
from vtokens.kernels._triton.group_mean import group_mean as fused_mean
from vtokens.kernels._triton.unfold import unfold as fused_unfold

ROOM = {torch.float32: 1e-6, torch.float16: 4e-3, torch.bfloat16: 4e-2}
"""Half a unit in the last place of numbers up to 8; a whole one of bfloat16, which the interpreter cuts off."""


def unfolded(states: Tensor, member: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The kernel on `DEVICE`, what it does not write left as NaN."""
    parts = on_device({"states": states, "member": member, "cos": cos, "sin": sin})
    with oracle.poisoned():
        return fused_unfold(**parts, block=16).cpu()  # type: ignore[arg-type]


def averaged(states: Tensor, member: Tensor, unique: int) -> Tensor:
    """The same."""
    with oracle.poisoned():
        return fused_mean(states.to(DEVICE), member.to(DEVICE), unique, block=64).cpu()


def problem(batch: int, length: int, unique: int, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """A map (B, N) with padding, cos and sin (B, N, D), float32."""
    member = torch.randint(0, unique, (batch, length)).masked_fill(torch.rand(batch, length) < 0.2, -1)
    cos, sin = rotary(torch.randint(0, 99, (batch, length)), dim)
    return member, cos.float(), sin.float()


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize(("batch", "heads", "dim"), [(1, 1, 64), (3, 2, 80), (2, 3, 96), (1, 4, 128)])
def test_tiles_and_their_edges(batch: int, heads: int, dim: int, length: int) -> None:
    """Copies are turned as `rotate` turns them, means are those of each row's positions; padding is nobody's."""
    member, cos, sin = problem(batch, length, 7, dim)
    states = torch.randn(batch, heads, 7, dim)
    expected = rotate(unfold(states, member).double(), cos.double(), sin.double())
    limits.close(unfolded(states, member, cos, sin), expected, terms=64)
    shared = unfolded(states, member, cos[:1], sin[:1])
    limits.close(shared, rotate(unfold(states, member), cos[:1], sin[:1]), terms=64)
    full = torch.randn(batch, heads, length, dim)
    mean = averaged(full, member, 7)
    for b in range(batch):
        for h in range(heads):
            true = mean_of_copies(full[b, h].double(), member[b], 7)
            limits.close(mean[b, h], true, terms=64)


@pytest.mark.parametrize("dtype", DTYPES)
def test_each_dtype(dtype: torch.dtype) -> None:
    """Rounded once."""
    member, cos, sin = problem(2, 40, 9, 64)
    cos, sin, states, full = (
        part.to(dtype) for part in (cos, sin, torch.randn(2, 2, 9, 64), torch.randn(2, 2, 40, 64))
    )
    got = unfolded(states, member, cos, sin)
    assert got.dtype == dtype
    expected = rotate(unfold(states, member).double(), cos.double(), sin.double())
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=ROOM[dtype])
    mean = averaged(full, member, 9)
    assert mean.dtype == dtype
    torch.testing.assert_close(mean.double(), group_mean(full.double(), member, 9), rtol=0, atol=ROOM[dtype])


@pytest.mark.parametrize(("dtype", "big"), [(torch.float16, 6e4), (torch.bfloat16, 3e38)])
def test_means_of_extreme_values_stay_finite(dtype: torch.dtype, big: float) -> None:
    """Their sums overflow, their means do not; tokens of their own pass unchanged, rows without members are zero."""
    full = torch.full((1, 1, 6, 64), big).to(dtype)
    got = averaged(full, torch.tensor([[0, 0, 0, 0, 0, 1]]), 3)
    torch.testing.assert_close(got[0, 0, 0].float(), full[0, 0, 0].float(), rtol=8e-3, atol=0)
    assert torch.equal(got[0, 0, 1], full[0, 0, 5])
    assert (got[0, 0, 2] == 0).all()


def test_strides_neighbours_and_runs() -> None:
    """Storage of any layout; a sample alone and a second run give the same bits."""
    member, cos, sin = problem(3, 40, 9, 16)
    states, full = torch.randn(3, 2, 9, 16), torch.randn(3, 2, 40, 16)

    def run(**parts: Tensor) -> tuple[Tensor, Tensor]:
        return unfolded(parts["states"], member=parts["member"], cos=parts["cos"], sin=parts["sin"]), averaged(
            parts["full"], parts["member"], 9
        )

    parts = {"states": states, "full": full, "member": member, "cos": cos, "sin": sin}
    oracle.samples_do_not_meet(run, parts, 3)
    true = run(**parts)
    for one, other in zip(oracle.strided(states), oracle.strided(full), strict=True):
        turned = {"cos": cos.mT.contiguous().mT, "member": member.mT.contiguous().mT}
        assert all(map(torch.equal, true, run(**(parts | turned | {"states": one, "full": other}))))


@pytest.mark.skipif(DEVICE == "cuda", reason="memory that is not touched is free on a CPU only")
def test_offsets_beyond_32_bits() -> None:
    """The last rows stand behind the 2^31st element."""
    near, (member, cos, sin) = torch.randn(2, 2, 20, 16).half(), problem(2, 20, 20, 16)
    far = oracle.far_apart(near)
    assert torch.equal(unfolded(far, member, cos, sin), unfolded(near, member, cos, sin))
    assert torch.equal(averaged(far, member, 20), averaged(near, member, 20))


@pytest.mark.parametrize("choice", ["reference", "triton"])
def test_attention_of_merged_tokens(choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Causal attention of all copies in float64, averaged over each row's positions; one sample padded."""
    monkeypatch.setenv("VTOKENS_KERNELS", choice)
    member, cos, sin = problem(2, 33, 9, 16)
    member[0], member[1, -1] = member[0].clamp(min=0), 3
    query, key, value = torch.randn(2, 4, 9, 16), torch.randn(2, 2, 9, 16), torch.randn(2, 2, 9, 16)
    given = on_device({"query": query, "key": key, "value": value, "member": member, "cos": cos, "sin": sin})
    got = unmerge_attention(**given).cpu()  # type: ignore[arg-type]
    turned = [rotate(unfold(part.double(), member), cos.double(), sin.double()) for part in (query, key)]
    seen = torch.ones(33, 33).tril().bool() & (member >= 0)[:, None, None]
    full, _ = oracle.attend(*turned, unfold(value, member), seen)
    for b in range(2):
        for h in range(4):
            true = mean_of_copies(full[b, h], member[b], 9)
            limits.close(got[b, h], true, terms=64)


def test_nothing_to_unfold() -> None:
    """Without rows or without positions."""
    member, cos, sin = problem(2, 0, 3, 16)
    assert unfolded(torch.randn(2, 2, 3, 16), member, cos, sin).shape == (2, 2, 0, 16)
    assert averaged(torch.randn(2, 2, 5, 16), torch.full((2, 5), -1), 0).shape == (2, 2, 0, 16)
