"""Cases of a benchmark: one problem with its operations counted, and several providers that solve it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from vtokens.kernels._dispatch import VARIABLE


@dataclass(frozen=True)
class BenchSetting:
    """The device, the dtype and the size of a benchmark.

    Attributes:
        device: CPU or CUDA.
        dtype: of queries, keys, values and tokens.
        quick: sizes that take a second, to see that everything runs.
    """

    device: torch.device
    dtype: torch.dtype
    quick: bool = False

    @property
    def cuda(self) -> bool:
        """Whether the device is an NVIDIA or AMD GPU."""
        return self.device.type == "cuda"

    def randn(self, *shape: int) -> torch.Tensor:
        """Gaussian numbers."""
        return torch.randn(*shape, device=self.device, dtype=self.dtype)


@dataclass(frozen=True)
class Provider:
    """One way to solve a case.

    Attributes:
        run: solves it; takes what `select` returned (None without one).
        select: what is prepared for one call and no other: lists, masks, orders.
        same: whether it solves this very problem; what does not, such as dense attention beside sparse, has no error.
    """

    run: Callable[[Any], Any]
    select: Callable[[], Any] | None = None
    same: bool = True


@dataclass(frozen=True)
class Work:
    """The operations and the memory traffic that a case needs, whoever solves it.

    Attributes:
        flops: of the pairs that are visited; multiplications and additions of matrix products, nothing else.
        bytes: each input read once and each output written once.
        dense_flops: where everything would be visited; None if that is `flops`.
    """

    flops: float
    bytes: float
    dense_flops: float | None = None


@dataclass(frozen=True)
class Case:
    """One problem.

    Attributes:
        shape: (B, H_q, H_kv, D, M, N), 0 where a kernel has no such size.
        pattern: what is visited, in a word or two.
        density: the share of the pairs that is visited.
        work: counted from the shapes, never measured.
        providers: by name, ours first.
        error: the largest absolute difference of what `run` returned from float64 arithmetic, all of it or on rows that
            are drawn; None where there is nothing to compare.
    """

    shape: tuple[int, int, int, int, int, int]
    pattern: str
    density: float
    work: Work
    providers: Mapping[str, Provider]
    error: Callable[[Any], float] | None = None


def ours(
    setting: BenchSetting, run: Callable[[Any], Any], select: Callable[[], Any] | None = None
) -> dict[str, Provider]:
    """A function of `vtokens.kernels` as "triton", where there is a GPU, and as "reference"."""
    names = ("triton", "reference") if setting.cuda else ("reference",)
    return {name: Provider(_choose(name, run), select and _choose(name, lambda _: select())) for name in names}


def _choose(name: str, run: Callable[[Any], Any]) -> Callable[..., Any]:
    def chosen(selected: Any = None) -> Any:
        before = os.environ.get(VARIABLE)
        os.environ[VARIABLE] = name
        try:
            return run(selected)
        finally:
            if before is None:
                del os.environ[VARIABLE]
            else:
                os.environ[VARIABLE] = before

    return chosen
