"""The Triton version of `bipartite_merge`: on a GPU where there is one, else in triton's interpreter."""

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from tests.kernels.test_bipartite_merge import naive, problems
from vtokens.kernels import bipartite_merge, match, merge

pytest.importorskip("triton")
from tests import limits
from vtokens.kernels._triton.bipartite_merge import match as fused_match
from vtokens.kernels._triton.bipartite_merge import mean as fused_mean

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def sides(batch: int, tokens: int, dim: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """Metrics of any length, random sides, and targets of which some are closed."""
    metric = (torch.randn(batch, tokens, dim) * torch.rand(batch, tokens, 1).mul(6).exp()).to(dtype)
    order = torch.rand(batch, tokens).argsort(1)
    source, target = order[:, 0::2], order[:, 1::2]
    return metric, source, target, torch.rand(target.shape) > 0.2


def poisoned(function: object, *args: object, **more: object) -> list[Tensor]:
    """The results of a kernel on `DEVICE`; what it does not write is NaN, or the largest integer."""
    moved = [part.to(DEVICE) if isinstance(part, Tensor) else part for part in args]
    torch.use_deterministic_algorithms(True)
    try:
        found = function(*moved, **more)  # type: ignore[operator]
    finally:
        torch.use_deterministic_algorithms(False)
    return [part.cpu() for part in (found if isinstance(found, tuple) else (found,))]


def exact(metric: Tensor, source: Tensor, target: Tensor, may_take: Tensor) -> Tensor:
    """All cosines (B, E, F) in float64, -inf at closed targets."""
    unit = torch.nn.functional.normalize(metric.double(), dim=-1)
    left, right = (unit[torch.arange(len(unit))[:, None], side] for side in (source, target))
    return (left @ right.mT).masked_fill(~may_take[:, None], -torch.inf)


@pytest.mark.parametrize("tokens", [2, 31, 32, 33, 67])
@pytest.mark.parametrize(("batch", "dim"), [(1, 64), (3, 80), (2, 7)])
def test_partners_are_the_most_similar(batch: int, dim: int, tokens: int) -> None:
    """Tiles less one, full and one over, primes; channels that are no multiple of a tile."""
    given_ = sides(batch, tokens, dim)
    score, best = poisoned(fused_match, *given_, block=(16, 16, 32))
    cosine = exact(*given_)
    top = cosine.amax(-1) if cosine.shape[-1] else torch.full(score.shape, -torch.inf, dtype=torch.float64)
    limits.close(score, top, terms=256)
    limits.close(cosine.gather(2, best[..., None])[..., 0], top, terms=256)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    """Products of rounded metrics are summed in float32, so only the inputs are rounded."""
    given_ = sides(2, 40, 32, dtype)
    score, _ = poisoned(fused_match, *given_, block=(16, 16, 16))
    limits.close(score, exact(*given_).amax(-1), terms=256)


@pytest.mark.parametrize(("dtype", "big"), [(torch.float16, 6e4), (torch.bfloat16, 3e38), (torch.float32, 3e38)])
def test_extreme_metrics_keep_their_direction(dtype: torch.dtype, big: float) -> None:
    """Their squares overflow, or vanish; zero vectors are like nothing."""
    metric = torch.tensor([big, 1.0, big / 2**10, -big, 1e-7, 0.0])[None, :, None].expand(1, 6, 3).to(dtype)
    source, target = torch.tensor([[0, 2, 4]]), torch.tensor([[1, 3, 5]])
    for closed, expected in (([], 1.0), ([0], 0.0)):
        may_take = torch.ones(1, 3, dtype=torch.bool)
        may_take[:, closed] = False
        score, best = poisoned(fused_match, metric, source, target, may_take, block=(16, 16, 16))
        limits.close(score, torch.full((1, 3), expected), terms=256)
        assert best.tolist() == [[0, 0, 0] if expected else [2, 2, 2]]


def test_ties_go_to_the_earlier_token() -> None:
    """Within a tile and across tiles; nobody to go to is -inf."""
    metric, order = torch.ones(1, 80, 4), torch.arange(80)[None]
    may_take = torch.ones(1, 40, dtype=torch.bool)
    may_take[:, :3] = False
    score, best = poisoned(fused_match, metric, order[:, 0::2], order[:, 1::2], may_take, block=(16, 16, 16))
    assert (best == 3).all()
    torch.testing.assert_close(score, torch.ones(1, 40))
    close = torch.randn(5, 1, 24) * (1 + 4e-7 * torch.randn(5, 80, 24))  # the largest cosine is rounding's to place
    sides, closed = (order[:, 0::2].repeat(5, 1), order[:, 1::2].repeat(5, 1)), may_take.repeat(5, 1)
    assert (poisoned(fused_match, close, *sides, closed, block=(16, 16, 16))[1] == 3).all()
    score, _ = poisoned(fused_match, metric, order[:, 0::2], order[:, 1::2], ~may_take[:, :1].expand(1, 40) & False)
    assert (score == -torch.inf).all()


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 2e-6), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_means_of_segments(dtype: torch.dtype, bound: float) -> None:
    """Weighted sums by destination, zero where nothing goes; other storage and other samples change no bit."""
    hidden, weight = torch.randn(2, 21, 20).to(dtype), torch.rand(2, 21)
    row = torch.randint(0, 5, (2, 21)) * 4
    expected = torch.zeros(2, 21, 20, dtype=torch.float64)
    expected.scatter_add_(1, row[..., None].expand_as(hidden), hidden.double() * weight[..., None].double())
    (got,) = poisoned(fused_mean, hidden, weight, row, block=16)
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), expected, rtol=bound, atol=bound)
    assert torch.equal(poisoned(fused_mean, hidden.mT.contiguous().mT, weight, row, block=16)[0], got)
    assert torch.equal(poisoned(fused_mean, hidden.repeat_interleave(2, -1)[..., ::2], weight, row, block=16)[0], got)
    for b in range(2):
        one = slice(b, b + 1)
        assert torch.equal(poisoned(fused_mean, hidden[one], weight[one], row[one], block=16)[0], got[one])


@settings(max_examples=20)  # each launch takes milliseconds in the interpreter
@given(problems())
def test_the_public_function_takes_it(problem: dict) -> None:
    """`VTOKENS_KERNELS=triton` merges as the loop in float64 does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VTOKENS_KERNELS", "triton")
        moved = {name: part.to(DEVICE) if isinstance(part, Tensor) else part for name, part in problem.items()}
        got = [part.cpu() for part in bipartite_merge(**moved)]
    for b in range(len(problem["valid"])):
        one = {k: problem[k][b].double().numpy() for k in ("hidden", "size", "metric")}
        valid = problem["valid"][b].numpy()
        members, features = naive(**one, valid=valid, threshold=problem["threshold"], protect=problem["protect"])
        assert sorted(members) == got[2][b].nonzero().flatten().tolist()
        for row, group in members.items():
            assert all(int(got[3][b, i]) == row for i in group)
            assert float(got[1][b, row]) == sum(one["size"][i] for i in group)
            limits.close(got[0][b, row], torch.tensor(features[row]), terms=256)


def test_gradients_are_the_references(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where they are wanted, plain PyTorch runs whatever the variable says."""
    monkeypatch.setenv("VTOKENS_KERNELS", "triton")
    hidden = torch.randn(1, 6, 3, requires_grad=True)
    valid = torch.ones(1, 6, dtype=torch.bool)
    merged = merge(hidden, torch.ones(1, 6), valid, match(torch.ones(1, 6, 2), valid), 0.5)
    merged.hidden.sum().backward()
    assert hidden.grad is not None


@pytest.mark.skipif(DEVICE == "cuda", reason="memory that is not touched is free on a CPU only")
def test_offsets_beyond_32_bits() -> None:
    """Tokens 2^27 elements apart: the last stands behind the 2^31st."""
    hidden, weight, row = torch.randn(1, 20, 8).half(), torch.rand(1, 20), torch.randint(0, 20, (1, 20))
    far = torch.empty(20 * 2**27, dtype=torch.float16).as_strided(hidden.shape, (0, 2**27, 1))
    far.copy_(hidden)
    torch.testing.assert_close(fused_mean(far, weight, row)[0], fused_mean(hidden, weight, row)[0], rtol=0, atol=0)
