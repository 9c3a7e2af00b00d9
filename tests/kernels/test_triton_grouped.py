"""The Triton version of `grouped_attention`: on a GPU where there is one, else in triton's interpreter."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from tests.kernels.test_grouped_attention import close, dense, draw, problems
from vtokens.kernels import Recycling, group_weights, grouped_attention, reweigh, reweighed_attention

pytest.importorskip("triton")
from tests import limits
from vtokens.kernels._triton.grouped import grouped_attention as fused
from vtokens.kernels._triton.recycled import recycled_attention

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TILE = (16, 16)


def run(
    tile: tuple[int, int] | None = TILE,
    splits: int | None = None,
    kernel: Callable[..., tuple[Tensor, Tensor]] = fused,
    **problem: object,
) -> tuple[Tensor, Tensor]:
    """A kernel on `DEVICE`, with what it does not write left as NaN."""
    moved = {name: part.to(DEVICE) if isinstance(part, Tensor) else part for name, part in problem.items()}
    moved.setdefault("position", None)
    torch.use_deterministic_algorithms(True)  # fills memory that is not initialised with NaN
    try:
        outputs, lse = kernel(**moved, tile=tile, splits=splits)
    finally:
        torch.use_deterministic_algorithms(False)
    return outputs.cpu(), lse.cpu()


def some(
    batch: int, heads: int, kv_heads: int, rows: int, keys: int, dim: int, groups: int, wide: int = 32
) -> dict[str, object]:
    """A problem with causal positions and padding."""
    query, key, value = draw(batch, heads, kv_heads, rows, keys, dim, wide)
    group, position = torch.randint(-1, groups, (batch, keys)), torch.randint(0, keys, (batch, rows))
    return {"query": query, "key": key, "value": value, "group": group, "groups": groups, "scaling": dim**-0.5 / 4,
            "position": position}  # fmt: skip


@settings(max_examples=15)  # each tile takes milliseconds in the interpreter
@given(problems())
def test_small_shapes_equal_a_dense_softmax(problem: dict) -> None:
    """Any heads, groups, causal positions and padding; every element of both outputs is written."""
    close(run(**problem), dense(**problem))


@pytest.mark.parametrize("keys", [1, 31, 32, 33, 61])
@pytest.mark.parametrize(
    ("batch", "heads", "kv_heads", "rows", "dim", "groups"),
    [(1, 4, 1, 3, 64, 4), (3, 2, 2, 1, 80, 1), (1, 7, 1, 11, 128, 7)],
)
def test_tiles_and_their_edges(
    batch: int, heads: int, kv_heads: int, rows: int, dim: int, groups: int, keys: int
) -> None:
    """One key, a tile less one, a tile, a tile and one, a prime; few rows packed, many with key tiles skipped."""
    problem = some(batch, heads, kv_heads, rows, keys, dim, groups)
    close(run((32, 32), **problem), dense(**problem))


@pytest.mark.parametrize("rows", [1, 20])
def test_splits_merge_to_the_whole(rows: int) -> None:
    """Any number of programs may share the keys, more than there are tiles of keys included."""
    problem = some(2, 2, 1, rows, 50, 16, 3)
    expected = dense(**problem)
    for splits in (1, 2, 7):
        close(run((32, 16), splits, **problem), expected)


def test_groups_in_runs_skip_tiles() -> None:
    """Whole tiles without a member are skipped: what stands in them, even NaN, is never looked at."""
    problem = some(1, 2, 1, 16, 96, 16, 3)
    problem["group"] = torch.arange(96)[None] // 32
    expected = dense(**problem)
    problem["value"][:, :, 32:64] = torch.nan
    outputs, lse = run(**problem)
    for g in (0, 2):
        close((outputs[g], lse[g]), (expected[0][g], expected[1][g]))


@pytest.mark.parametrize("below", [87.0, 5000.0])
def test_a_group_far_below_another(below: float) -> None:
    """Each group has a maximum of its own, in each split too."""
    problem = some(1, 2, 2, 2, 40, 16, 3) | {"position": None}
    problem["group"] = torch.arange(40)[None] % 2  # and the third is empty
    problem["query"][..., 0], problem["key"][..., 0] = 4.0, 0.0
    problem["key"][:, :, 1::2, 0] = -below
    expected = dense(**problem)
    for splits in (1, 3):
        outputs, lse = run(splits=splits, **problem)
        close((outputs, lse), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    """Products of rounded inputs are summed in float32; on a GPU the shares are rounded before the second product."""
    problem = some(2, 4, 2, 3, 40, 64, 3)
    for name in ("query", "key", "value"):
        problem[name] = problem[name].to(dtype)
    close(run(**problem), dense(**problem), rounded=dtype)


def test_strides_and_far_offsets() -> None:
    """Transposed and padded storage, a last dimension with steps, and elements beyond the 2^31st."""
    problem = some(2, 4, 2, 3, 20, 16, 3)
    expected = dense(**problem)
    for name in ("query", "key", "value"):
        part = problem[name]
        problem[name] = part.transpose(1, 2).contiguous().transpose(1, 2)
    close(run(**problem), expected)
    problem["value"] = problem["value"].repeat_interleave(2, -1)[..., ::2]
    problem["group"] = torch.stack([problem["group"]] * 2, -1)[..., 0]
    close(run(**problem), expected)
    if DEVICE == "cpu":  # memory that is not touched costs nothing
        step = 2**31 // 16
        key = torch.empty(19 * step + 4 * 2**20, dtype=torch.float16)
        far = key.as_strided(problem["key"].shape, (2**20, 2**19, step, 1))
        far.copy_(problem["key"])
        near = {name: part.half() if name in ("query", "value") else part for name, part in problem.items()}
        close(run(**(near | {"key": far})), dense(**(near | {"key": far.clone()})))


def test_samples_do_not_meet_and_runs_repeat() -> None:
    """To the last bit."""
    problem = some(3, 4, 2, 3, 40, 16, 3)
    together = run(splits=2, **problem)
    again = run(splits=2, **problem)
    for row in range(3):
        one = slice(row, row + 1)
        alone = run(splits=2, **{k: part[one] if isinstance(part, Tensor) else part for k, part in problem.items()})
        for part, same, single in zip(together, again, alone, strict=True):
            assert torch.equal(part, same)
            assert torch.equal(part[:, one], single)


def test_the_public_function_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """`VTOKENS_KERNELS=triton` gives the attention that the reference gives."""
    problem = some(2, 4, 2, 3, 40, 16, 3)
    merged = []
    for choice in ("reference", "triton"):
        monkeypatch.setenv("VTOKENS_KERNELS", choice)
        outputs, lse = grouped_attention(**problem)
        merged.append(reweigh(outputs, group_weights(lse)))
    limits.close(*merged, terms=128, size=(1 + limits.largest(lse)) * limits.largest(outputs))


@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize(("batch", "heads", "kv_heads", "rows"), [(1, 4, 4, 1), (2, 4, 2, 3), (3, 2, 1, 17)])
def test_recycling_in_the_merge(batch: int, heads: int, kv_heads: int, rows: int, splits: int) -> None:
    """The rule applied where groups and splits are merged: the groups' outputs under the rule's weights."""
    problem = some(batch, heads, kv_heads, rows, 40, 16, 4)
    rule = Recycling(fraction=0.6, min_share=0.4, min_ratio=0.5)
    outputs, lse = dense(**problem)
    weights = group_weights(lse)
    applied = rule.applies(weights)
    assert applied.any() or rows == 1
    assert not applied.all() or rows == 1
    del problem["groups"]
    got = run((16, 16), splits, recycled_attention, rule=rule, **problem)
    close(got, (reweigh(outputs, rule(weights)), weights))


def test_recycling_is_taken_by_the_public_function(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same under both values of `VTOKENS_KERNELS`, and for a change that no kernel knows."""
    problem, rule = some(2, 4, 2, 3, 40, 16, 4), Recycling(0.6, 0.3, 0.3)
    for change in (rule, lambda weights: weights.roll(1, 0)):
        both = []
        for choice in ("reference", "triton"):
            monkeypatch.setenv("VTOKENS_KERNELS", choice)
            both.append(reweighed_attention(change=change, **problem))
        close(both[1], both[0])
