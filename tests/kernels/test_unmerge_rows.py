"""`unmerge_rows`, in plain PyTorch and in Triton, against attention over explicit copies in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests import limits
from tests.kernels import oracle
from tests.kernels.oracle import DEVICE, HEADS, LENGTHS, on_device
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
    limits.close(unmerge_rows(**problem), explicit(problem), terms=64)


def in_triton(splits: int | None = None, **problem: object) -> Tensor:
    """The kernel on `DEVICE`, what it does not write left as NaN."""
    pytest.importorskip("triton")
    from vtokens.kernels._triton.unmerge_rows import unmerge_rows as fused

    with oracle.poisoned():
        return fused(**on_device(problem), splits=splits).cpu()  # type: ignore[arg-type]


@given(problems())
@settings(max_examples=10)  # each tile takes milliseconds in the interpreter
def test_triton_equals_attention_over_copies(problem: dict) -> None:
    """The same; positions in one program or divided over three."""
    for splits in (1, 3):
        limits.close(in_triton(splits, **problem), explicit(problem), terms=64)


def draw(batch: int, heads: int, kv_heads: int, length: int, dim: int) -> dict:
    """One row over a fourth as many keys as positions."""
    unique, turn = max(1, length // 4), 6 * torch.rand(batch, length, dim // 2)
    query, key, value = oracle.draw(batch, heads, kv_heads, 1, unique, dim)
    member = torch.randint(0, unique, (batch, length))
    return {
        "query": query, "key": key, "value": value, "member": member, "angle": torch.polar(torch.ones_like(turn), turn),
        "scaling": dim**-0.5, "valid": torch.rand(batch, length) > 0.2,
    }  # fmt: skip


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize(("batch", "heads", "kv_heads", "dim"), HEADS)
def test_triton_on_tiles_and_their_edges(batch: int, heads: int, kv_heads: int, dim: int, length: int) -> None:
    """A tile of positions less one, just, and one more."""
    problem = draw(batch, heads, kv_heads, length, dim) | {"valid": None}
    limits.close(in_triton(**problem), explicit(problem), terms=64)


def test_triton_strides_neighbours_and_runs() -> None:
    """Storage of any layout; a sample alone and a second run give the same bits; one map of angles for all samples."""
    problem = draw(3, 4, 2, 40, 16)
    true = in_triton(2, **problem)
    oracle.samples_do_not_meet(lambda **parts: (in_triton(2, **parts),), problem, 3)
    for query, key, value in zip(*(oracle.strided(problem[n]) for n in ("query", "key", "value")), strict=True):
        turned = {name: problem[name].mT.contiguous().mT for name in ("member", "angle", "valid")}
        assert torch.equal(in_triton(2, **(problem | turned | {"query": query, "key": key, "value": value})), true)
    shared = problem | {"angle": problem["angle"][:1]}
    limits.close(in_triton(**shared), explicit(shared), terms=64)


@pytest.mark.skipif(DEVICE == "cuda", reason="memory that is not touched is free on a CPU only")
def test_triton_offsets_beyond_32_bits() -> None:
    """The last keys stand behind the 2^31st element."""
    problem = draw(2, 4, 2, 80, 16)
    near = problem | {name: problem[name].half() for name in ("query", "key", "value")}
    far = near | {name: oracle.far_apart(near[name]) for name in ("key", "value")}
    assert torch.equal(in_triton(**far), in_triton(**near))


@pytest.mark.parametrize("choice", ["reference", "triton"])
def test_the_public_function(choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under both values of `VTOKENS_KERNELS`; a sample that sees nothing gets zeros."""
    monkeypatch.setenv("VTOKENS_KERNELS", choice)
    problem = draw(2, 4, 2, 40, 16)
    problem["valid"][1] = False
    got = unmerge_rows(**on_device(problem)).cpu()  # type: ignore[arg-type]
    limits.close(got[0], explicit(problem)[0], terms=64)
    assert (got[1] == 0).all()


def test_what_does_not_fit_is_named() -> None:
    """The message says what it is and what is allowed."""
    problem = draw(1, 2, 1, 8, 16)
    with pytest.raises(ValueError, match=r"member holds 2: 0 to 1 is allowed"):
        unmerge_rows(**(problem | {"member": torch.full((1, 8), 2)}))
    with pytest.raises(ValueError, match=r"angle is \(1, 7, 8\): \(1, 8, 8\) is needed"):
        unmerge_rows(**(problem | {"angle": problem["angle"][:, 1:]}))


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
