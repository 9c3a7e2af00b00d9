"""How far rounding may carry a result: what every numeric test allows, whatever processor it runs on.

Processors add in different orders and widths, and so do a batch and its rows. A limit therefore follows from what is
computed, and is never a figure that held on one machine.
"""

from __future__ import annotations

import torch
from torch import Tensor

WIDTH = 128
"""Terms of the longest sum in a block of the models in tests/families: the channels of an MLP."""
BLOCKS = 8
"""Blocks that a state of theirs goes through: four of the tower and four of the decoder."""
_ROOM = 2.0


def rounding(size: float | Tensor, terms: int, chain: int = 1, dtype: torch.dtype = torch.float32) -> float:
    """The distance that two correct computations of one result may have.

    The rounding errors of a sum are a random walk: n terms end about sqrt(n) units in the last place of the largest
    number apart (Higham and Mary, A New Approach to Probabilistic Rounding Error Analysis, 2019), and what is computed
    from one another adds up. Each side has its own walk, hence twice that.

    Args:
        size: the largest number that takes part, or a tensor whose largest finite number it is.
        terms: numbers added up for one result.
        chain: such sums one behind another.
        dtype: what the results are rounded to.
    """
    size = largest(size) if isinstance(size, Tensor) else size
    return _ROOM * torch.finfo(dtype).eps * size * terms**0.5 * chain


def close(got: Tensor, expected: Tensor, terms: int, chain: int = 1, size: float | Tensor | None = None) -> None:
    """Assert that two results are equal up to `rounding`; infinities must be the same ones, and nothing is NaN.

    Args:
        got, expected: of one shape; the coarser of their dtypes decides.
        terms, chain: as in `rounding`.
        size: as in `rounding`; default `expected`. Sums whose terms cancel, so that the result is smaller than what it
            is made of, need it.
    """
    dtype = max((got.dtype, expected.dtype), key=lambda dtype: torch.finfo(dtype).eps)
    limit = rounding(expected if size is None else size, terms, chain, dtype)
    torch.testing.assert_close(got.double(), expected.double().to(got.device), rtol=0, atol=limit)


def close_pass(got: Tensor, expected: Tensor, passes: int = 1, size: float | Tensor | None = None) -> None:
    """`close` for states or logits of the models in tests/families.

    Args:
        got, expected, size: as in `close`.
        passes: how many passes are added up in it; a contrast of two answers has two.
    """
    close(got, expected, WIDTH, BLOCKS * passes, size)


def close_attention(
    got: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], keys: int = 64, rounded: torch.dtype | None = None
) -> None:
    """`close` for what attention kernels return: outputs and log-sum-exps.

    A score is a sum over channels, and what it is off by, in units of its own size, a share is off by as well; the
    log-sum-exps are as large as the largest scores.

    Args:
        got, expected: (..., D) and (...).
        keys: how many a row attends to, at most.
        rounded: what shares, values or outputs are rounded to on the way, if that is not the outputs' own dtype.
    """
    outputs, lse = expected
    score, terms = 1 + largest(lse), keys + outputs.shape[-1]
    exact = max((got[1].dtype, lse.dtype), key=lambda dtype: torch.finfo(dtype).eps)
    limit = sums = rounding(score, terms, dtype=exact)
    limit *= largest(outputs)
    for dtype in {got[0].dtype, rounded} - {exact, None}:  # the same number on both sides, rounded on one
        limit += torch.finfo(dtype).eps * largest(outputs)
        sums += torch.finfo(dtype).eps / 2  # the logarithm of a sum of shares
    torch.testing.assert_close(got[0].double(), outputs.double().to(got[0].device), rtol=0, atol=limit)
    torch.testing.assert_close(got[1].double(), lse.double().to(got[1].device), rtol=0, atol=sums)


def largest(values: Tensor) -> float:
    """The largest magnitude among the finite numbers of a tensor; 0 if there are none."""
    finite = values.detach()[values.detach().isfinite()]
    return float(finite.abs().max()) if len(finite) else 0.0
