"""The Triton version of `attention_colsum`: on a GPU where there is one, else in triton's interpreter."""

import pytest
import torch
from torch import Tensor

from tests.kernels.oracle import (
    DEVICE,
    DTYPES,
    HEADS,
    LENGTHS,
    dense,
    draw,
    far_apart,
    on_device,
    poisoned,
    samples_do_not_meet,
    scores_close,
    strided,
)  # fmt: skip
from vtokens.kernels import attention_colmean, attention_colsum

pytest.importorskip("triton")
from tests import limits
from vtokens.kernels._triton.rows import attention_colsum as fused


def run(query: Tensor, key: Tensor, weight: Tensor | None = None, **more: object) -> Tensor:
    """The kernel on `DEVICE`, with what it does not write left as NaN; scaling is 0.2 and every row counts."""
    weight = torch.ones(query.shape[0], query.shape[2]) if weight is None else weight
    given = {"query": query, "key": key, "weight": weight, "scaling": 0.2, "position": None, "bias": None}
    with poisoned():
        return fused(**on_device(given | {"block": (16, 32)} | more)).cpu()  # type: ignore[arg-type]


def joint(sums: Tensor, kv_heads: int) -> Tensor:
    """(B, H, N) -> (B, H_kv, N)."""
    return sums.unflatten(1, (kv_heads, -1)).sum(2)


@pytest.mark.parametrize("keys", LENGTHS)
@pytest.mark.parametrize(("batch", "heads", "kv_heads", "dim"), HEADS)
def test_it_equals_a_dense_softmax(batch: int, heads: int, kv_heads: int, dim: int, keys: int) -> None:
    """Causal, weighted rows, biased and hidden keys; heads apart or together, keys split over programs or not."""
    query, key, _ = draw(batch, heads, kv_heads, 5, keys, dim)
    position, weight = torch.randint(0, keys, (batch, 5)), torch.rand(batch, 5)
    bias = torch.randn(batch, keys).masked_fill(torch.rand(batch, keys) < 0.2, -torch.inf)
    # A score is a product of channels: one more of them carries the bias.
    wider = torch.cat([query, torch.ones_like(query[..., :1])], -1)
    carried = bias.masked_fill(bias == -torch.inf, 0) / 0.2
    longer = torch.cat([key, carried[:, None, :, None].expand(-1, kv_heads, -1, -1)], -1)
    seen = (bias != -torch.inf)[:, None, None] & (torch.arange(keys) <= position[:, None, :, None])
    shares, lse = dense(wider, longer, seen, 0.2)
    expected = torch.einsum("bhrn,br->bhn", shares, weight.double())
    more = {"position": position, "bias": bias}
    scores_close(run(query, key, weight, splits=2, **more), expected, 5)
    scores_close(run(query, key, weight, joint=True, **more), joint(expected, kv_heads), 35)
    scores_close(run(query, key, weight, lse=lse.float(), **more), expected, 20)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_row_gives_what_it_has(dtype: torch.dtype) -> None:
    """Over all keys it is one a row; a row that sees nothing gives nothing."""
    query, key, _ = draw(2, 4, 2, 20, 50, 16, dtype)
    got = run(query, key)
    scores_close(got, dense(query, key, scaling=0.2)[0].sum(2), 20, dtype)
    limits.close(got.sum(-1), torch.full((2, 4), 20.0), terms=128)
    bias = torch.zeros(2, 50)
    bias[1] = -torch.inf
    expected = torch.tensor([20.0, 0.0])[:, None].expand(2, 4)
    limits.close(run(query, key, bias=bias).sum(-1), expected, terms=128)


def test_strides_neighbours_and_runs() -> None:
    """Storage of any layout; a sample alone and a second run give the same bits."""
    query, key, _ = draw(3, 4, 2, 5, 40, 16)
    problem = {"query": query, "key": key, "weight": torch.rand(3, 5), "splits": 2}
    samples_do_not_meet(lambda **parts: (run(**parts),), problem, 3)
    together = run(query, key)
    for one, other in zip(strided(query), strided(key), strict=True):
        assert torch.equal(run(one, other), together)


@pytest.mark.skipif(DEVICE == "cuda", reason="memory that is not touched is free on a CPU only")
def test_offsets_beyond_32_bits() -> None:
    """The last keys stand behind the 2^31st element."""
    query, key, _ = draw(2, 4, 2, 3, 20, 16, torch.float16)
    assert torch.equal(run(query, far_apart(key)), run(query, key))


@pytest.mark.parametrize("choice", ["reference", "triton"])
def test_nan_is_not_lost_and_not_spread(choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN in a key that rows see shows; in keys they do not see, and in rows that do not count, it has no effect."""
    monkeypatch.setenv("VTOKENS_KERNELS", choice)
    query, key, _ = draw(2, 4, 2, 5, 40, 16)
    position, valid = torch.full((2, 5), 30), torch.ones(2, 40, dtype=torch.bool)
    rows = torch.tensor([True, True, False, True, True]).expand(2, -1)
    valid[:, 7] = False
    given = {"scaling": 0.2, "rows": rows, "position": position, "valid": valid}
    clean = attention_colsum(query, key, **given)
    query[:, :, 2], key[:, :, 7], key[:, :, 31:] = torch.nan, torch.nan, torch.nan
    assert torch.equal(attention_colsum(query, key, **given), clean)
    key[0, 0, 3] = torch.nan
    got = attention_colsum(query, key, **given)
    assert got[0, :2].isnan().any(-1).all()
    assert torch.equal(got[0, 2:], clean[0, 2:])
    assert torch.equal(got[1], clean[1])


@pytest.mark.parametrize("choice", ["reference", "triton"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_large_activations_do_not_overflow(dtype: torch.dtype, choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products beyond what float16 holds are finite after scaling."""
    monkeypatch.setenv("VTOKENS_KERNELS", choice)
    key = torch.zeros(1, 1, 3, 64, dtype=dtype)
    key[:, :, 1] = 90
    got = attention_colsum(torch.full((1, 1, 1, 64), 90.0).to(dtype), key, 2**-16)
    scores_close(got, dense(torch.full((1, 1, 1, 64), 90.0), key, scaling=2**-16)[0].sum(2), 1)


def test_the_public_functions_take_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chosen rows, causal positions and padding, under both values of `VTOKENS_KERNELS`; no rows give zeros."""
    query, key, _ = draw(2, 4, 2, 5, 30, 16)
    rows, valid = torch.rand(2, 5), torch.rand(2, 30) > 0.2
    rows[0, 1], rows[1] = 0, 0
    given = on_device({"rows": rows, "position": torch.randint(0, 30, (2, 5)), "valid": valid})
    query, key = query.to(DEVICE), key.to(DEVICE)
    both = []
    for choice in ("reference", "triton"):
        monkeypatch.setenv("VTOKENS_KERNELS", choice)
        found = [attention_colsum(query, key, 0.2, heads=how, **given) for how in ("none", "mean", "max")]
        both.append([*found, attention_colmean(query, key, 0.2, **given)])
        assert attention_colmean(query[:, :, :0], key, 0.2).tolist() == [[0.0] * 30] * 2
    for one, other in zip(*both, strict=True):
        limits.close(one, other, terms=128)
        assert not other[1].any()
