"""The Triton version of `attention_colmean`: on a GPU where there is one, else in triton's interpreter."""

import pytest
import torch
from torch import Tensor

from tests.kernels.test_attention_rows import dense, draw
from vtokens.kernels import attention_colmean

pytest.importorskip("triton")
from vtokens.kernels._triton.rows import attention_colsum

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def run(query: Tensor, key: Tensor, weight: Tensor | None = None, **more: object) -> Tensor:
    """The kernel on `DEVICE`, with what it does not write left as NaN; scaling is 0.2 and every row counts."""
    given = {"scaling": 0.2, "position": None, "bias": None, "block": (16, 16)} | more
    given = {name: part.to(DEVICE) if isinstance(part, Tensor) else part for name, part in given.items()}
    weight = torch.ones(query.shape[0], query.shape[2]) if weight is None else weight
    torch.use_deterministic_algorithms(True)  # fills memory that is not initialised with NaN
    try:
        return attention_colsum(query.to(DEVICE), key.to(DEVICE), weight=weight.to(DEVICE), **given).cpu()  # type: ignore[arg-type]
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("keys", [1, 15, 16, 17, 41])
@pytest.mark.parametrize(
    ("batch", "heads", "kv_heads", "rows", "dim"), [(1, 4, 1, 5, 64), (3, 2, 2, 1, 80), (1, 7, 1, 3, 128)]
)
def test_it_equals_a_dense_softmax(batch: int, heads: int, kv_heads: int, rows: int, dim: int, keys: int) -> None:
    """One key, a tile less one, a tile, a tile and one, a prime; causal, weighted rows, biased and hidden keys."""
    query, key = draw(batch, heads, kv_heads, rows, keys, dim)
    position, weight = torch.randint(0, keys, (batch, rows)), torch.rand(batch, rows)
    valid, bias = torch.rand(batch, keys) > 0.2, torch.randn(batch, keys)
    # A score is a product of channels: one more of them carries the bias.
    wider = torch.cat([query, torch.ones_like(query[..., :1])], -1)
    longer = torch.cat([key, (bias / 0.2)[:, None, :, None].expand(-1, kv_heads, -1, -1)], -1)
    expected = torch.einsum("bhrn,br->bn", dense(wider, longer, 0.2, position, valid), weight.double())
    hidden = bias.masked_fill(~valid, -torch.inf)
    for splits in (1, 3):
        got = run(query, key, weight, position=position, bias=hidden, splits=splits)
        torch.testing.assert_close(got.double(), expected, rtol=0, atol=2e-5)


def test_every_row_gives_what_it_has() -> None:
    """Over all keys, rows and heads it is one a row and head; a row that sees nothing gives nothing."""
    query, key = draw(2, 4, 2, rows=20, keys=50, dim=16)
    torch.testing.assert_close(run(query, key).sum(1), torch.full((2,), 80.0), rtol=0, atol=1e-4)
    bias = torch.zeros(2, 50)
    bias[1] = -torch.inf
    torch.testing.assert_close(run(query, key, bias=bias).sum(1), torch.tensor([80.0, 0.0]), rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    """Products of rounded inputs are summed in float32, so only the inputs are rounded."""
    query, key = (part.to(dtype) for part in draw(1, 4, 2, rows=3, keys=40, dim=32))
    expected = dense(query, key, 0.2).sum((1, 2))
    torch.testing.assert_close(run(query, key).double(), expected, rtol=0, atol=1e-4)


def test_strides_neighbours_and_runs() -> None:
    """Transposed and stepping storage; a sample alone and a second run give the same bits."""
    query, key = draw(3, 4, 2, rows=5, keys=40, dim=16)
    together = run(query, key, splits=2)
    assert torch.equal(run(query, key, splits=2), together)
    for row in range(3):
        assert torch.equal(run(query[row : row + 1], key[row : row + 1], splits=2)[0], together[row])
    turned = [part.transpose(1, 2).contiguous().transpose(1, 2) for part in (query, key)]
    assert torch.equal(run(*turned, splits=2), together)
    stepping = [part.repeat_interleave(2, -1)[..., ::2] for part in (query, key)]
    assert torch.equal(run(*stepping, splits=2), together)


@pytest.mark.skipif(DEVICE == "cuda", reason="memory that is not touched is free on a CPU only")
def test_offsets_beyond_32_bits() -> None:
    """Keys 2^27 elements apart: the last stands behind the 2^31st."""
    query, key = draw(2, 4, 2, rows=3, keys=20, dim=16)
    storage = torch.empty(20 * 2**27 + 2**22, dtype=torch.float16)
    far = storage.as_strided(key.shape, (2**20, 2**19, 2**27, 1))
    far.copy_(key)
    torch.testing.assert_close(run(query.half(), far), run(query.half(), far.contiguous()), rtol=0, atol=0)


def test_the_public_function_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chosen rows, causal positions and padding, under both values of `VTOKENS_KERNELS`; no rows give zeros."""
    query, key = draw(2, 4, 2, rows=5, keys=30, dim=16)
    rows, valid = torch.rand(2, 5) > 0.3, torch.rand(2, 30) > 0.2
    rows[1] = False
    position = torch.randint(0, 30, (2, 5))
    means = []
    for choice in ("reference", "triton"):
        monkeypatch.setenv("VTOKENS_KERNELS", choice)
        means.append(attention_colmean(query.to(DEVICE), key.to(DEVICE), 0.2, rows, position, valid).cpu())
    torch.testing.assert_close(*means, rtol=0, atol=1e-6)
    assert not means[1][1].any()
    assert attention_colmean(query[:, :, :0], key, 0.2).tolist() == [[0.0] * 30] * 2
