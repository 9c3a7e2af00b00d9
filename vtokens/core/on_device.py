"""What the host knows, for a device: copied so that the host goes on at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

_LATER = ("mps", "xpu")
"""Devices that may read the host's memory after such a copy has returned, when it holds something else."""


def on_device(values: Tensor | np.ndarray | Sequence[Any], device: torch.device, dtype: Any = None) -> Tensor:
    """Numbers of the host, or a tensor of any device, as a tensor on `device`.

    A plain `.to(device)` waits until a GPU has done all that was asked of it; CUDA stages what lies in ordinary memory,
    so that the host need not.

    Args:
        values: a tensor, an array (whose memory a tensor on a CPU shares), or numbers, as `torch.as_tensor` takes them.
        device: where it goes.
        dtype: None is that of `values`.
    """
    return torch.as_tensor(values, dtype=dtype).to(device, non_blocking=device.type not in _LATER)
