"""The Triton version of `farthest_point`: on a GPU where there is one, else in triton's interpreter."""

import pytest
import torch
from torch import Tensor

from tests.kernels.test_farthest_point import OBJECTIVES, flat, order_of, points, spoilt
from vtokens.kernels import farthest_point

pytest.importorskip("triton")
from vtokens.kernels._triton.farthest_point import farthest_point as fused
from vtokens.kernels._triton.farthest_point import products

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LARGE = {"widest": 0, "block": (16, 16)}
"""Sets so large that every choice is a launch."""


def run(tokens: Tensor, valid: Tensor, counts: list[int], start: list[int], objective: str, **more: object) -> Tensor:
    """The kernel on `DEVICE`; memory that it does not write is filled with the largest number there is."""
    torch.use_deterministic_algorithms(True)
    try:
        moved = tokens.to(DEVICE), valid.to(DEVICE), counts, torch.tensor(start), objective == "kcenter"
        return fused(*moved, **more).cpu()  # type: ignore[arg-type]
    finally:
        torch.use_deterministic_algorithms(False)


def expected(tokens: Tensor, valid: Tensor, counts: list[int], start: list[int], objective: str) -> Tensor:
    """By the definition, set by set, in float64."""
    chosen = torch.zeros_like(valid)
    for row, (count, first) in enumerate(zip(counts, start, strict=True)):
        place = valid[row].nonzero()[:, 0]
        begin = int((place < first).sum())
        order = order_of(tokens[row, place].double().numpy(), count, begin, objective)[:count]
        chosen[row, place[order]] = True
    return chosen


@pytest.mark.parametrize("large", [{}, LARGE])
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("most", [1, 15, 16, 17, 37])
def test_it_equals_the_definition(most: int, objective: str, large: dict) -> None:
    """One token, a tile less one, a tile, a tile and one, a prime; ragged sets, counts and starts."""
    tokens, valid = points(most, 3, most, 21), torch.ones(3, most, dtype=torch.bool)
    valid[1, most - most // 3 :] = False
    valid[2, : most // 4] = False
    counts, start = [most, most // 2, min(1, most // 3)], [most // 2, 0, most - 1]
    given = tokens, valid, counts, start, objective
    assert torch.equal(run(*given, **large), expected(*given))


@pytest.mark.parametrize("large", [{}, LARGE])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_tokens_are_compared_in_float32(dtype: torch.dtype, large: dict) -> None:
    """What is chosen is what the same rounded values choose in float64."""
    tokens, valid = points(8, 1, 40, 16).to(dtype), torch.ones(1, 40, dtype=torch.bool)
    for objective in OBJECTIVES:
        given = tokens, valid, [14], [3], objective
        assert torch.equal(run(*given, **large), expected(*given))


@pytest.mark.parametrize("large", [{}, LARGE])
def test_equal_and_zero_tokens(large: dict) -> None:
    """Copies tie, and the earlier goes first; a zero vector resembles nothing and is no NaN."""
    tokens, valid = torch.ones(2, 20, 3), torch.ones(2, 20, dtype=torch.bool)
    tokens[1, 5] = 0
    for objective in OBJECTIVES:
        got = run(tokens, valid, [3, 2], [12, 0], objective, **large)
        assert got[0].nonzero()[:, 0].tolist() == [0, 1, 12]
        assert got[1].nonzero()[:, 0].tolist() == [0, 5]


@pytest.mark.parametrize("large", [{}, LARGE])
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")  # numpy's, in the interpreter
def test_tokens_without_a_direction_come_last(objective: str, large: dict) -> None:
    """As the reference chooses, from a start that has one and from one that has none; never a token twice."""
    tokens, sound = spoilt(points(12, 26, 7))
    tokens, valid = tokens.expand(2, -1, -1).contiguous(), torch.ones(2, 26, dtype=torch.bool)
    valid[1, 22:] = False
    for counts, start in (([10, 7], [3, 21]), ([len(sound) + 1, 20], [17, 4])):
        got = run(tokens, valid, counts, start, objective, **large)
        assert got.sum(1).tolist() == counts
        assert torch.equal(got, farthest_point(tokens, valid, counts, torch.tensor(start), objective))


@pytest.mark.parametrize("large", [{}, LARGE])
def test_strides_neighbours_and_runs(large: dict) -> None:
    """Transposed and stepping storage; a set alone and a second run choose the same."""
    tokens, valid = points(2, 3, 20, 12), torch.ones(3, 20, dtype=torch.bool)
    given = valid, [5, 11, 3], [1, 2, 3], "maxsum"
    together = run(tokens, *given, **large)
    assert torch.equal(run(tokens, *given, **large), together)
    assert torch.equal(run(tokens.mT.contiguous().mT, *given, **large), together)
    assert torch.equal(run(tokens.repeat_interleave(2, -1)[..., ::2], *given, **large), together)
    for row in range(3):
        alone = run(
            tokens[row : row + 1], valid[:1], given[1][row : row + 1], given[2][row : row + 1], "maxsum", **large
        )
        assert torch.equal(alone[0], together[row])


def test_sets_that_do_not_fit_together_are_taken_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """One similarity matrix at a time."""
    tokens, valid = points(2, 3, 20, 12), torch.ones(3, 20, dtype=torch.bool)
    given = tokens, valid, [9, 20, 4], [1, 2, 3], "kcenter"
    together = run(*given)
    monkeypatch.setattr("vtokens.kernels._triton.farthest_point._GRAM", 400)
    assert torch.equal(run(*given), together)


def test_products_are_summed_in_float32() -> None:
    """Of half-precision tokens too: the error is that of float32."""
    tokens = points(0, 2, 30, 64).bfloat16().to(DEVICE)
    exact = tokens.double() @ tokens.double().mT
    torch.testing.assert_close(products(tokens).double(), exact, rtol=1e-5, atol=1e-4)


@pytest.mark.skipif(DEVICE == "cuda", reason="memory that is not touched is free on a CPU only")
def test_offsets_beyond_32_bits() -> None:
    """Tokens 2^27 elements apart: the last stands behind the 2^31st."""
    tokens, valid = points(3, 1, 20, 8).half(), torch.ones(1, 20, dtype=torch.bool)
    far = torch.empty(20 * 2**27, dtype=torch.float16).as_strided(tokens.shape, (0, 2**27, 1))
    far.copy_(tokens)
    given = valid, [9], [1], "maxsum"
    assert torch.equal(run(far, *given, **LARGE), run(tokens, *given))


def test_the_public_function_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """`VTOKENS_KERNELS=triton` chooses what the reference chooses."""
    tokens, valid = points(2, 2, 33, 12), torch.ones(2, 33, dtype=torch.bool)
    both = []
    for choice in ("reference", "triton"):
        monkeypatch.setenv("VTOKENS_KERNELS", choice)
        both.append(farthest_point(tokens.to(DEVICE), valid.to(DEVICE), [9, 20], torch.tensor([1, 2])).cpu())
    assert torch.equal(*both)


@pytest.mark.parametrize("large", [{}, LARGE])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_rounding_chooses_nothing_of_a_flat_picture(objective: str, large: dict) -> None:
    valid = torch.ones(1, 30, dtype=torch.bool)
    got = run(flat(30, 20, 5)[None], valid, [9], [12], objective, **large)
    assert got[0].nonzero()[:, 0].tolist() == [*range(8), 12]
