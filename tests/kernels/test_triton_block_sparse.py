"""The Triton version of `block_sparse_attention`: on a GPU where there is one, else in triton's interpreter."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from tests import limits
from tests.kernels.sparse import Problem, close, problem, problems, visible
from vtokens.kernels import Tiles, block_sparse_attention, in_order

pytest.importorskip("triton")
from vtokens.kernels._triton.block_sparse import _divide, check
from vtokens.kernels._triton.block_sparse import block_sparse_attention as fused

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def run(case: Problem, chunk: int = 256, shares: int = 1024) -> tuple[Tensor, Tensor]:
    """The kernel on `DEVICE`; what it does not write, of outputs and of what it merges, is NaN."""
    moved = [part.to(DEVICE) for part in case.args[:3]]
    names = ("q_slot", "k_slot", "ids", "start", "count", "full")
    tiles = replace(case.tiles, **{name: getattr(case.tiles, name).to(DEVICE) for name in names})
    batch, heads, rows, _ = case.query.shape
    torch.use_deterministic_algorithms(True)  # fills memory that is not initialised with NaN
    try:
        into = (
            torch.empty(batch, rows, heads, case.value.shape[3], dtype=case.value.dtype, device=DEVICE),
            torch.empty(batch, rows, heads, device=DEVICE),
        )
        output, lse = fused(*moved, tiles, case.scaling, chunk, shares, into)
    finally:
        torch.use_deterministic_algorithms(False)
    return output.cpu(), lse.cpu()


def written(case: Problem) -> Tensor:
    """bool (B, H, M): rows that stand in some slot."""
    tiles, (batch, heads, rows, _) = case.tiles, case.query.shape
    there = torch.zeros(batch, heads, rows + 1, dtype=torch.bool)
    for plan, head in enumerate(tiles.heads):
        there[:, head].scatter_(1, tiles.q_slot[:, plan].flatten(1).long() % (rows + 1), True)
    return there[..., :rows]


def check_against_dense(case: Problem, got: tuple[Tensor, Tensor], rounded: torch.dtype | None = None) -> None:
    """Every row in a slot is right, and no other row was touched."""
    there = written(case)
    assert all(part[~there].isnan().all() for part in got)
    outputs, lse = (part[there] for part in got)
    limits.close_attention((outputs, lse), tuple(part[there] for part in case.expected()), 128, rounded)


@settings(max_examples=15)  # each tile takes milliseconds in the interpreter
@given(problems(block=(16, 32)))
def test_any_tiles_equal_a_dense_softmax(case: Problem) -> None:
    """Any order of queries and keys, any lists, padding, causal or not; every row in a slot is written."""
    check_against_dense(case, run(case))


@pytest.mark.parametrize("length", [1, 31, 32, 33, 61])
@pytest.mark.parametrize(("batch", "heads", "kv_heads", "dim"), [(1, 1, 1, 64), (3, 2, 2, 80), (1, 7, 1, 128)])
def test_tiles_and_their_edges(batch: int, heads: int, kv_heads: int, dim: int, length: int) -> None:
    """One row, a tile less one, a tile, a tile and one, a prime; with keys before them."""
    case = problem(batch, heads, kv_heads, length, length + 11, dim, dim, (32, 32), 0.7, padded=length == 61)
    check_against_dense(case, run(case))


@pytest.mark.parametrize(("chunk", "shares"), [(1, 1000), (2, 7), (3, 4), (2, 1), (1, 0)])
def test_long_lists_are_shared(chunk: int, shares: int) -> None:
    """Whatever the room for shares: longest lists first, the others by one program each."""
    case = problem(1, 2, 1, 40, 90, block=(16, 16), share=0.8, padded=True)
    check_against_dense(case, run(case, chunk, shares))


@pytest.mark.parametrize("offset", [0, None])
def test_query_tiles_without_a_list_see_everything(offset: int | None) -> None:
    """Beside ordinary lists, shared or not."""
    case = problem(1, 2, 2, 40, 40, padded=True)
    slots = case.tiles.q_slot, case.tiles.k_slot
    everything = torch.rand(slots[0].shape[:3]) < 0.5
    lists = torch.randint(0, slots[1].shape[2] + 1, (*slots[0].shape[:3], 2), dtype=torch.int32)
    case = replace(case, tiles=Tiles.padded(*slots, lists, everything, (0, 1), 40, 40, offset))
    for chunk in (1, 256):
        check_against_dense(case, run(case, chunk))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    """Rounded inputs, sums in float32; the interpreter cuts bfloat16 off where a GPU rounds it."""
    case = problem(1, 4, 2, 40, 40, dim=64, wide=64).of(dtype)
    check_against_dense(case, run(case), dtype)


def test_strides_and_far_offsets() -> None:
    """Transposed storage, a last dimension with steps, and elements beyond the 2^31st."""
    case = problem(2, 4, 2, 20, 20, block=(16, 16))
    turned = [part.transpose(1, 2).contiguous().transpose(1, 2) for part in case.args[:3]]
    stepped = [part.repeat_interleave(2, -1)[..., ::2] for part in case.args[:3]]
    for query, key, value in (turned, stepped):
        check_against_dense(case, run(replace(case, query=query, key=key, value=value)))
    if DEVICE == "cpu":  # memory that is not touched costs nothing
        near, step = case.of(torch.float16), 2**31 // 18
        key = torch.empty(19 * step + 4 * 2**20, dtype=torch.float16)
        far = key.as_strided(near.key.shape, (2**20, 2**19, step, 1))
        far.copy_(near.key)
        assert (near.key.shape[2] - 1) * far.stride(2) >= 2**31
        check_against_dense(near, run(replace(near, key=far)), torch.float16)


def test_samples_do_not_meet_and_runs_repeat() -> None:
    """To the last bit."""
    case = problem(3, 2, 1, 40, 40)
    together, again = run(case, 1), run(case, 1)
    for row in range(3):
        one = slice(row, row + 1)
        parts = {name: getattr(case.tiles, name)[one] for name in ("q_slot", "k_slot", "start", "count", "full")}
        alone = run(
            Problem(case.query[one], case.key[one], case.value[one], replace(case.tiles, **parts), case.scaling), 1
        )
        for part, same, single in zip(together, again, alone, strict=True):
            assert torch.equal(part, same)
            assert torch.equal(part[one], single)


def test_keys_of_other_tiles_are_not_looked_at() -> None:
    """What stands in a tile that no list names, even NaN, has no effect."""
    slots = in_order(32, 16, 1, 1), in_order(48, 16, 1, 1)
    visit = torch.tensor([[[[True, False, True], [True, False, False]]]])
    tiles = Tiles.mask(*slots, visit, rows=32, keys=48, offset=16)
    case = replace(problem(1, 1, 1, 32, 48), tiles=tiles)
    expected = case.expected()
    case.key[:, :, 16:32] = case.value[:, :, 16:32] = torch.nan
    close(run(case), expected)


def test_work_is_divided_without_loss() -> None:
    """Every entry of every list belongs to one program, longest lists first, within the room for shares."""
    torch.manual_seed(0)
    for _ in range(50):
        count = torch.randint(0, 40, (int(torch.randint(1, 30, ())),), dtype=torch.int32)
        chunk, shares = int(torch.randint(1, 12, ())), int(torch.randint(0, 20, ()))
        work, merged = _divide(count, chunk, shares)
        work = work[work[:, 0] >= 0]
        seen = [torch.zeros(int(n), dtype=torch.int) for n in count]
        for item, begin, share in work.tolist():
            seen[item][begin : begin + chunk if share >= 0 else None] += 1
            assert share >= 0 or begin == 0
        assert all((part == 1).all() for part in seen)
        assert set(work[:, 0].tolist()) == set(range(len(count)))
        numbers = sorted(share for _, _, share in work.tolist() if share >= 0)
        assert numbers == list(range(len(numbers)))
        assert len(numbers) <= shares
        shared = {item for item, _, share in work.tolist() if share >= 0}
        assert {item for item, _, _ in merged.tolist() if item >= 0} == shared
        left = [int(n) for item, n in enumerate(count) if item not in shared and n > chunk]
        assert not left or not shared or max(left) <= min(int(count[item]) for item in shared)


def test_the_public_function_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """`VTOKENS_KERNELS=triton` gives what the reference gives; rows in no slot are zero."""
    case = problem(2, 4, 2, 40, 40, padded=True)
    assert not written(case).all()
    both = []
    for choice in ("reference", "triton"):
        monkeypatch.setenv("VTOKENS_KERNELS", choice)
        both.append(block_sparse_attention(*case.args))
    close(*both)
    assert not visible(case.tiles, 4).all()


def test_sizes_without_a_version_are_refused() -> None:
    """The message says what there is, and what takes the rest."""
    check(256, 1, 128, 16)
    with pytest.raises(ValueError, match=r"BLOCK_N=8: the kernel has tiles of 16, 32, 64 and 128; plain PyTorch takes"):
        fused(*problem(1, 1, 1, 8, 8, block=(16, 8)).args)
    with pytest.raises(ValueError, match="BLOCK_M=48"):
        fused(*problem(1, 1, 1, 8, 8, block=(48, 16)).args)
    with pytest.raises(ValueError, match="heads of 272 channels: the kernel has up to 256"):
        fused(*problem(1, 1, 1, 8, 8, dim=272).args)
