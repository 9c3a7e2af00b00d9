"""`decode_attention`, in plain PyTorch and in Triton, against a dense softmax in float64 over the filled keys."""

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
from vtokens.kernels import decode_attention, group_weights, grouped_attention, reweigh

Run = Callable[..., tuple[Tensor, Tensor]]


def in_triton(
    query: Tensor, key: Tensor, value: Tensor, length: Tensor, splits: int | None = None, **more: Any
) -> tuple[Tensor, Tensor]:
    """The kernel in small tiles; what it does not write is NaN."""
    pytest.importorskip("triton")
    from vtokens.kernels._triton.decode import decode_attention as fused

    length = (length if length.dim() == 2 else length[:, None]).expand(-1, key.shape[1])
    given = {"query": query, "key": key, "value": value, "length": length, "scaling": query.shape[-1] ** -0.5}
    with oracle.poisoned():
        output, lse = fused(**on_device(given | {"causal": True} | more), tile=(16, 32), splits=splits)  # type: ignore[arg-type]
    if more.get("group") is not None:
        return output.cpu(), lse.cpu()
    return output[0].to(value.dtype).cpu(), lse[0].cpu()


def in_pytorch(splits: int | None = None, **problem: Any) -> tuple[Tensor, Tensor]:
    """The public function on a CPU."""
    return decode_attention(**problem)


RUNS = pytest.mark.parametrize("run", [in_pytorch, in_triton], ids=["reference", "triton"])


def expected(
    query: Tensor, key: Tensor, value: Tensor, length: Tensor, causal: bool = True, group: Tensor | None = None,
    groups: int = 1,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Sample by sample, head by head and group by group, over the keys that are there."""
    (batch, heads, rows, _), kv_heads = query.shape, key.shape[1]
    outputs = torch.zeros(groups, *query.shape[:3], value.shape[-1], dtype=torch.float64)
    lse = torch.full((groups, batch, heads, rows), -torch.inf, dtype=torch.float64)
    for b, h, r, g in torch.cartesian_prod(*(torch.arange(n) for n in (batch, heads, rows, groups))).tolist():
        kv_head = h // (heads // kv_heads)
        filled = int(length[b] if length.dim() == 1 else length[b, kv_head]) - (rows - 1 - r if causal else 0)
        there = torch.arange(max(0, filled))
        there = there if group is None else there[group[b, there] == g]
        if len(there):
            at = slice(b, b + 1), slice(kv_head, kv_head + 1), there
            one = oracle.attend(query[b : b + 1, h : h + 1, r : r + 1], key[at], value[at])
            outputs[g, b, h, r], lse[g, b, h, r] = one[0][0, 0, 0], one[1][0, 0, 0]
    return (outputs[0], lse[0]) if group is None else (outputs, lse)


@st.composite
def problems(draw_from: st.DrawFn) -> dict:
    """Any heads and rows; a length for each sample or each head, from nothing to the whole buffer; groups or none."""
    kv_heads, shared = draw_from(st.integers(1, 3)), draw_from(st.integers(1, 3))
    batch, rows, keys = (draw_from(st.integers(1, most)) for most in (3, 4, 50))
    torch.manual_seed(draw_from(st.integers(0, 9999)))
    query, key, value = draw(batch, kv_heads * shared, kv_heads, rows, keys, 8)
    shape = draw_from(st.sampled_from([(batch,), (batch, kv_heads)]))
    length = torch.randint(0, keys + 1, shape) if draw_from(st.booleans()) else torch.full(shape, keys)
    problem = {"query": query, "key": key, "value": value, "length": length, "causal": draw_from(st.booleans())}
    if draw_from(st.booleans()):
        problem |= {"group": torch.randint(-1, 3, (batch, keys)), "groups": 3}
    return problem


@given(problems())
def test_it_equals_a_dense_softmax(problem: dict) -> None:
    """In plain PyTorch; rows that see nothing give 0 and -inf."""
    close(in_pytorch(**problem), expected(**problem))


@given(problems())
@settings(max_examples=10)  # each tile takes milliseconds in the interpreter
def test_triton_equals_a_dense_softmax(problem: dict) -> None:
    """In one program a cache and divided over three by its own length, everything written."""
    for splits in (1, 3):
        close(in_triton(splits=splits, **problem), expected(**problem))


@pytest.mark.parametrize("keys", LENGTHS)
@pytest.mark.parametrize(("batch", "heads", "kv_heads", "dim"), HEADS)
def test_triton_on_tiles_and_their_edges(batch: int, heads: int, kv_heads: int, dim: int, keys: int) -> None:
    """Caches that fill a tile of keys less one, just, and one more, in a buffer that is longer."""
    query, key, value = draw(batch, heads, kv_heads, 1, 70, dim)
    length = torch.full((batch,), keys) - torch.arange(batch).clamp(max=keys - 1)
    problem = {"query": query, "key": key, "value": value, "length": length}
    close(in_triton(splits=2, **problem), expected(**problem))


@RUNS
@pytest.mark.parametrize("dtype", DTYPES)
def test_each_dtype(run: Run, dtype: torch.dtype) -> None:
    """Within the bounds of its rounding."""
    query, key, value = draw(3, 4, 2, 2, 61, 64, dtype)
    problem = {"query": query, "key": key, "value": value, "length": torch.tensor([[61, 17], [2, 40], [33, 33]])}
    got = run(**problem)
    assert (got[0].dtype, got[1].dtype) == (dtype, torch.float32)
    close(got, expected(**problem), dtype)


@RUNS
def test_what_lies_behind_a_length_is_not_looked_at(run: Run) -> None:
    """Not even where it is NaN, as in buffers that nobody has filled."""
    query, key, value = draw(3, 4, 2, 2, 50, 16)
    length = torch.tensor([[50, 17], [2, 40], [0, 33]])
    true = expected(query, key, value, length)
    behind = (torch.arange(50) >= length[..., None])[..., None]
    key, value = key.masked_fill(behind, torch.nan), value.masked_fill(behind, torch.nan)
    close(run(query=query, key=key, value=value, length=length), true)


@RUNS
def test_groups_merge_to_the_whole(run: Run) -> None:
    """Outputs over each group, weighed by their log-sum-exps, are attention without groups."""
    query, key, value = draw(2, 4, 2, 1, 60, 16)
    problem = {"query": query, "key": key, "value": value, "length": torch.tensor([60, 23])}
    outputs, lse = run(group=torch.randint(0, 4, (2, 60)), groups=4, **problem)
    close((reweigh(outputs, group_weights(lse)), lse.logsumexp(0)), expected(**problem))


@RUNS
def test_full_caches_are_grouped_attention(run: Run) -> None:
    """Rows at the end of caches that are full."""
    query, key, value = draw(2, 4, 2, 3, 40, 16)
    place, group = torch.arange(37, 40).expand(2, -1), torch.randint(-1, 2, (2, 40))
    one = run(query=query, key=key, value=value, length=torch.full((2,), 40), group=group, groups=2)
    for got, same in zip(one, grouped_attention(query, key, value, group, 2, 0.25, place), strict=True):
        limits.close(got, same, terms=64)


@RUNS
def test_order_and_repeated_keys(run: Run) -> None:
    """Keys of a cache in another order, or repeated for each head, change nothing."""
    query, key, value = draw(2, 6, 2, 1, 40, 16)
    length, order = torch.tensor([[30, 12], [5, 40]]), torch.randperm(5)
    true = expected(query, key, value, length)
    key[:, :, :5], value[:, :, :5] = key[:, :, order], value[:, :, order]
    key, value, length = (part.repeat_interleave(3, 1) for part in (key, value, length))
    close(run(query=query, key=key, value=value, length=length), true)


@RUNS
def test_samples_do_not_meet_and_runs_repeat(run: Run) -> None:
    """To the last bit, whatever lengths the neighbours have."""
    query, key, value = draw(3, 4, 2, 2, 40, 16)
    problem = {"query": query, "key": key, "value": value, "length": torch.tensor([40, 7, 33]), "splits": 2}
    # In plain PyTorch how many keys are summed at once, so the last bit, follows from the longest.
    if run is in_pytorch:
        problem["length"] = torch.tensor([[40, 7], [33, 40], [40, 0]])
    oracle.samples_do_not_meet(run, problem, 3)


@RUNS
def test_strides(run: Run) -> None:
    """Storage of any layout."""
    states, length = draw(2, 4, 2, 2, 40, 16), torch.tensor([[40, 9], [31, 32]])
    true = expected(*states, length)
    for query, key, value in zip(*map(oracle.strided, states), strict=True):
        close(run(query=query, key=key, value=value, length=length.mT.contiguous().mT), true)


@pytest.mark.skipif(oracle.DEVICE == "cuda", reason="memory that is not touched is free on a CPU only")
@RUNS
def test_offsets_beyond_32_bits(run: Run) -> None:
    """The last keys stand behind the 2^31st element."""
    query, key, value = draw(2, 4, 2, 1, 20, 16, torch.float16)
    length = torch.tensor([20, 19])
    near = run(query=query, key=key, value=value, length=length)
    far = run(query=query, key=oracle.far_apart(key), value=oracle.far_apart(value), length=length)
    assert all(map(torch.equal, near, far))


@pytest.mark.parametrize("choice", ["reference", "triton"])
def test_the_public_function(choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Default scaling and tiles; without keys or rows there are zeros."""
    if choice == "triton":
        pytest.importorskip("triton")
    monkeypatch.setenv("VTOKENS_KERNELS", choice)
    states, length = draw(2, 4, 2, 2, 40, 16), torch.tensor([40, 3])
    query, key, value = (part.to(oracle.DEVICE) for part in states)
    close(decode_attention(query, key, value, length.to(oracle.DEVICE)), expected(*states, length))
    for rows, keys in ((2, 0), (0, 40)):
        none = torch.zeros(2, dtype=torch.int32, device=oracle.DEVICE)
        output, lse = decode_attention(query[:, :, :rows], key[:, :, :keys], value[:, :, :keys], none)
        assert torch.equal(output, torch.zeros(2, 4, rows, 16, device=oracle.DEVICE))
        assert (lse == -torch.inf).all()


def test_what_does_not_fit_is_named() -> None:
    """The message says what it is and what is allowed."""
    query, key, value = draw(2, 4, 2, 1, 5, 16)
    with pytest.raises(ValueError, match=r"length holds 6: 0 to 5 is allowed"):
        decode_attention(query, key, value, torch.tensor([3, 6]))
    with pytest.raises(ValueError, match=r"length is \(2, 4\): \(2,\) or \(2, 2\) is needed"):
        decode_attention(query, key, value, torch.ones(2, 4, dtype=torch.long))
    with pytest.raises(TypeError, match=r"length is torch.float32: integers are needed"):
        decode_attention(query, key, value, torch.ones(2))
    with pytest.raises(ValueError, match=r"groups=3 without group"):
        decode_attention(query, key, value, torch.tensor([3, 4]), groups=3)
