"""Which implementation of a kernel runs: plain PyTorch or Triton."""

from __future__ import annotations

import importlib.util
import os
from functools import cache

import torch
from torch import Tensor

from vtokens.core.errors import unknown
from vtokens.core.extras import install

VARIABLE = "VTOKENS_KERNELS"
CHOICES = ("auto", "reference", "triton")


def use_triton(*tensors: Tensor) -> bool:
    """Whether the Triton version should run on `tensors`.

    The environment variable `VTOKENS_KERNELS` decides: "reference" never takes it, "triton" always does, "auto" (the
    default) on a GPU where triton is installed. float64 and gradients are the reference's in any case: the kernels
    have neither.

    Raises:
        ValueError: the variable has another value.
        RuntimeError: it says "triton", and triton is missing or cannot run where the tensors are.
    """
    choice = os.environ.get(VARIABLE, "auto")
    if choice not in CHOICES:
        raise unknown(VARIABLE, choice, CHOICES)
    if choice == "reference" or (choice == "auto" and not (tensors[0].is_cuda and _installed())):
        return False
    if any(t.dtype == torch.float64 or (t.requires_grad and torch.is_grad_enabled()) for t in tensors):
        return False
    if not _installed():
        raise RuntimeError(f"{VARIABLE}=triton, but triton is not installed: {install('triton')}, or unset it")
    if not tensors[0].is_cuda and not interpreted():
        raise RuntimeError(
            f"{VARIABLE}=triton, but the tensors are on {tensors[0].device}: move them to a GPU, unset it, or set "
            "TRITON_INTERPRET=1 before Python starts to run the kernels slowly on a CPU"
        )
    return True


@cache
def _installed() -> bool:
    return importlib.util.find_spec("triton") is not None


@cache
def interpreted() -> bool:
    """Whether triton runs kernels in Python, on any device; decided when triton is imported."""
    import triton

    return bool(triton.knobs.runtime.interpret)
