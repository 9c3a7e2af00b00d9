"""`gathered_attention`, in plain PyTorch and in Triton, against a dense softmax in float64 over the listed keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests import limits
from tests.kernels import oracle
from tests.kernels.oracle import DTYPES, HEADS, LENGTHS, close, draw, on_device
from vtokens.kernels import gathered_attention, group_weights, reweigh

Run = Callable[..., tuple[Tensor, Tensor]]


def in_triton(
    query: Tensor, key: Tensor, value: Tensor, index: Tensor, splits: int | None = None, **more: Any
) -> tuple[Tensor, Tensor]:
    """The kernel in small tiles; what it does not write is NaN."""
    pytest.importorskip("triton")
    from vtokens.kernels._triton.gathered import gathered_attention as fused

    given = {"query": query, "key": key, "value": value, "index": index, "scaling": query.shape[-1] ** -0.5}
    with oracle.poisoned():
        output, lse = fused(**on_device(given | {"position": None} | more), tile=(16, 32), splits=splits)  # type: ignore[arg-type]
    return output.to(value.dtype).cpu(), lse.cpu()


def in_pytorch(splits: int | None = None, **problem: Any) -> tuple[Tensor, Tensor]:
    """The public function on a CPU."""
    return gathered_attention(**problem)


RUNS = pytest.mark.parametrize("run", [in_pytorch, in_triton], ids=["reference", "triton"])


def lists(batch: int, count: int, keys: int, share: float = 0.5) -> Tensor:
    """Random lists in random order, -1 here and there."""
    index = torch.rand(batch, count, keys).argsort(-1).to(torch.int32)
    return index.masked_fill(torch.rand(index.shape) > share, -1)


def expected(
    query: Tensor, key: Tensor, value: Tensor, index: Tensor, scaling: float | None = None,
    position: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """A matrix in which everything else is masked."""
    heads, keys = query.shape[1], key.shape[2]
    seen = torch.zeros(*index.shape[:2], keys + 1, dtype=torch.bool).scatter_(-1, index.long() % (keys + 1), True)
    seen = seen[..., :keys].repeat_interleave(heads // index.shape[1], 1)[:, :, None]
    if position is not None:
        seen = seen & (torch.arange(keys) <= position[:, None, :, None])
    return oracle.attend(query, key, value, seen, scaling)


@st.composite
def problems(draw_from: st.DrawFn) -> dict:
    """Any heads, lists for all heads, for each that shares keys or for each; causal or not; some lists empty."""
    kv_heads, shared = draw_from(st.integers(1, 3)), draw_from(st.integers(1, 3))
    batch, rows, keys = (draw_from(st.integers(1, most)) for most in (3, 6, 40))
    torch.manual_seed(draw_from(st.integers(0, 9999)))
    query, key, value = draw(batch, kv_heads * shared, kv_heads, rows, keys, 8)
    count = draw_from(st.sampled_from([1, kv_heads, kv_heads * shared]))
    index = lists(batch, count, keys, draw_from(st.sampled_from([0.0, 0.1, 0.6, 1.0])))
    place = draw_from(st.sampled_from([None, torch.randint(-1, keys, (batch, rows))]))
    return {"query": query, "key": key, "value": value, "index": index, "position": place}


@given(problems())
def test_it_equals_a_dense_softmax(problem: dict) -> None:
    """In plain PyTorch; lists in any order give 0 and -inf to rows that see nothing of them."""
    close(in_pytorch(**problem), expected(**problem))


@given(problems())
@settings(max_examples=10)  # each tile takes milliseconds in the interpreter
def test_triton_equals_a_dense_softmax(problem: dict) -> None:
    """In one program a list and divided over three, everything written."""
    for splits in (1, 3):
        close(in_triton(splits=splits, **problem), expected(**problem))


@pytest.mark.parametrize("keys", LENGTHS)
@pytest.mark.parametrize(("batch", "heads", "kv_heads", "dim"), HEADS)
def test_triton_on_tiles_and_their_edges(batch: int, heads: int, kv_heads: int, dim: int, keys: int) -> None:
    """Lists that fill a tile of keys less one, just, and one more."""
    query, key, value = draw(batch, heads, kv_heads, 3, keys, dim)
    problem = {"query": query, "key": key, "value": value, "index": lists(batch, kv_heads, keys, 0.9)}
    close(in_triton(**problem), expected(**problem))


@RUNS
@pytest.mark.parametrize("dtype", DTYPES)
def test_each_dtype(run: Run, dtype: torch.dtype) -> None:
    """Within the bounds of its rounding, for keys shared by heads."""
    query, key, value = draw(2, 4, 2, 20, 61, 64, dtype)
    problem = {"query": query, "key": key, "value": value, "index": lists(2, 4, 61)}
    got = run(**problem)
    assert (got[0].dtype, got[1].dtype) == (dtype, torch.float32)
    close(got, expected(**problem), dtype)


@RUNS
def test_parts_merge_to_the_whole(run: Run) -> None:
    """Lists that together name every key once: merged by log-sum-exp they are dense attention."""
    query, key, value = draw(2, 4, 2, 5, 50, 16)
    which = torch.randint(0, 3, (2, 1, 50))
    place = torch.arange(50).expand(2, 1, -1)
    parts = [
        run(query=query, key=key, value=value, index=torch.where(which == number, place, -1)) for number in range(3)
    ]
    outputs, lse = (torch.stack(each) for each in zip(*parts, strict=True))
    close((reweigh(outputs, group_weights(lse)), lse.logsumexp(0)), oracle.attend(query, key, value))


@RUNS
def test_keys_that_are_not_listed_are_not_looked_at(run: Run) -> None:
    """Not even where they are NaN; order does not matter; a key listed twice counts twice."""
    query, key, value = draw(1, 2, 1, 3, 40, 16)
    index = torch.tensor([[[3, 17, 17, -1, 30]]])
    got = run(query=query, key=key, value=value, index=index)
    repeated = oracle.attend(query, key[:, :, [3, 17, 17, 30]], value[:, :, [3, 17, 17, 30]])
    close(got, repeated)
    key[:, :, :3] = value[:, :, :3] = value[:, :, 18:30] = torch.nan
    close(run(query=query, key=key, value=value, index=index.flip(-1)), repeated)


@RUNS
def test_shared_keys_equal_repeated_ones(run: Run) -> None:
    """Grouped-query attention is attention over repeated keys."""
    query, key, value = draw(2, 6, 2, 5, 20, 16)
    index = lists(2, 2, 20)
    repeated = (part.repeat_interleave(3, 1) for part in (key, value, index))
    names = ("key", "value", "index")
    one = run(query=query, key=key, value=value, index=index)
    other = run(query=query, **dict(zip(names, repeated, strict=True)))
    for got, same in zip(one, other, strict=True):
        limits.close(got, same, terms=64)


@RUNS
def test_samples_do_not_meet_and_runs_repeat(run: Run) -> None:
    """To the last bit."""
    query, key, value = draw(3, 4, 2, 5, 40, 16)
    problem = {"query": query, "key": key, "value": value, "index": lists(3, 2, 40), "splits": 2}
    oracle.samples_do_not_meet(run, problem, 3)


@RUNS
def test_strides(run: Run) -> None:
    """Storage of any layout, for states and lists."""
    states, index = draw(2, 4, 2, 5, 40, 16), lists(2, 2, 40)
    true = oracle.attend(*states), expected(*states, index)
    for query, key, value in zip(*map(oracle.strided, states), strict=True):
        for other in (index.mT.contiguous().mT, torch.stack([index] * 2, -1)[..., 0]):
            close(run(query=query, key=key, value=value, index=other), true[1])


@pytest.mark.skipif(oracle.DEVICE == "cuda", reason="memory that is not touched is free on a CPU only")
@RUNS
def test_offsets_beyond_32_bits(run: Run) -> None:
    """The last keys stand behind the 2^31st element."""
    query, key, value = draw(2, 4, 2, 3, 20, 16, torch.float16)
    index = torch.tensor([[[19, 2, 18, -1, 7]]]).expand(2, -1, -1)
    near = run(query=query, key=key, value=value, index=index)
    far = run(query=query, key=oracle.far_apart(key), value=oracle.far_apart(value), index=index)
    assert all(map(torch.equal, near, far))


@pytest.mark.parametrize("choice", ["reference", "triton"])
def test_the_public_function(choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Default scaling and tiles; without keys, rows or lists there are zeros."""
    if choice == "triton":
        pytest.importorskip("triton")
    monkeypatch.setenv("VTOKENS_KERNELS", choice)
    query, key, value = (part.to(oracle.DEVICE) for part in draw(2, 4, 2, 5, 40, 16))
    index, place = lists(2, 4, 40), torch.randint(0, 40, (2, 5))
    given = index.to(oracle.DEVICE), None, place.to(oracle.DEVICE)
    close(
        gathered_attention(query, key, value, *given), expected(query.cpu(), key.cpu(), value.cpu(), index, None, place)
    )
    for rows, keys, entries in ((5, 40, 0), (5, 0, 3), (0, 40, 3)):
        none = torch.full((2, 1, entries), -1, device=oracle.DEVICE)
        output, lse = gathered_attention(query[:, :, :rows], key[:, :, :keys], value[:, :, :keys], none)
        assert torch.equal(output, torch.zeros(2, 4, rows, 16, device=oracle.DEVICE))
        assert (lse == -torch.inf).all()


def test_gradients_flow() -> None:
    """To queries, keys and values, as through a dense softmax."""
    states = [part.requires_grad_() for part in draw(1, 2, 1, 3, 6, 4)]
    index = torch.tensor([[[4, 1, -1, 2]]])
    output, lse = gathered_attention(*states, index)
    found = torch.autograd.grad(output.square().sum() + lse.sum(), states)
    true, true_lse = expected(*states, index)
    torch.testing.assert_close(found, torch.autograd.grad(true.square().sum() + true_lse.sum(), states))


def test_what_does_not_fit_is_named() -> None:
    """The message says what it is and what is allowed."""
    query, key, value = draw(2, 4, 2, 3, 5, 16)
    with pytest.raises(ValueError, match=r"index holds 5: -1 to 4 is allowed"):
        gathered_attention(query, key, value, torch.tensor([[[0, 5]]]).expand(2, -1, -1))
    with pytest.raises(ValueError, match=r"index holds -2: -1 to 4 is allowed"):
        gathered_attention(query, key, value, torch.tensor([[[0, -2]]]).expand(2, -1, -1))
    with pytest.raises(ValueError, match=r"index is \(2, 3, 4\): \(2, 1, 4\) or \(2, 2, 4\) or \(2, 4, 4\) is needed"):
        gathered_attention(query, key, value, torch.zeros(2, 3, 4, dtype=torch.long))
    with pytest.raises(TypeError, match=r"index is torch.bool: integers are needed"):
        gathered_attention(query, key, value, torch.zeros(2, 1, 5, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"they must be \(B, H, R, D\), \(B, H_kv, N, D\) and \(B, H_kv, N, D_v\)"):
        gathered_attention(query, key, value[:, :, :4], torch.zeros(2, 1, 5, dtype=torch.long))


def test_triton_has_heads_of_up_to_256_channels() -> None:
    """And says so."""
    query, key, value = draw(1, 1, 1, 1, 2, 272)
    with pytest.raises(ValueError, match="heads of 272 channels: the kernel has up to 256; plain PyTorch takes any"):
        in_triton(query, key, value, torch.zeros(1, 1, 1, dtype=torch.long))
