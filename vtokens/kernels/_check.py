"""What every operation on queries, keys and values refuses."""

from __future__ import annotations

import torch
from torch import Tensor


def check_states(query: Tensor, key: Tensor, value: Tensor | None = None) -> None:
    """Raise unless query (B, H, R, D), key (B, H_kv, N, D) and value (B, H_kv, N, D_v) fit together.

    Raises:
        TypeError: dtypes that differ, or are no floating point.
        ValueError: shapes that do not fit.
    """
    states = {"query": query, "key": key} | ({} if value is None else {"value": value})
    names = " and ".join(", ".join(states).rsplit(", ", 1))
    if not query.is_floating_point() or any(part.dtype != query.dtype for part in states.values()):
        dtypes = ", ".join(str(part.dtype) for part in states.values())
        raise TypeError(f"{names} are {dtypes}: one floating-point dtype is needed")
    fits = all(part.dim() == 4 for part in states.values()) and (value is None or value.shape[:3] == key.shape[:3])
    if fits:
        fits = len(query) == len(key) and query.shape[3] == key.shape[3] and key.shape[1] > 0
        fits = fits and query.shape[1] % key.shape[1] == 0
    if not fits:
        shapes = ", ".join(str(tuple(part.shape)) for part in states.values())
        wanted = "(B, H, R, D) and (B, H_kv, N, D)" if value is None else "(B, H, R, D), (B, H_kv, N, D) and " + (
            "(B, H_kv, N, D_v)"
        )  # fmt: skip
        raise ValueError(f"{names} are {shapes}: they must be {wanted}, with H a multiple of H_kv")


def check_shape(name: str, part: Tensor, *allowed: tuple[int, ...]) -> None:
    """Raise `ValueError` unless `part` has one of the shapes."""
    if tuple(part.shape) not in allowed:
        raise ValueError(f"{name} is {tuple(part.shape)}: {' or '.join(dict.fromkeys(map(str, allowed)))} is needed")


def check_range(name: str, index: Tensor, low: int | None, high: int, asserted: bool = True) -> None:
    """Raise unless every entry of `index` is in [low, high]; `low` None is no bound.

    An accelerator is not waited for: as with PyTorch's own indexing, the device fails when it gets to it, or does not
    look at all unless `asserted`.

    Raises:
        TypeError: not integers.
        ValueError: an entry out of range.
    """
    if index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
        raise TypeError(f"{name} is {index.dtype}: integers are needed")
    if not index.numel():
        return
    allowed = f"{high} and below" if low is None else f"{low} to {high}"
    if index.device.type == "cpu":
        least, most = int(index.min()), int(index.max())
        if most > high or (low is not None and least < low):
            raise ValueError(f"{name} holds {most if most > high else least}: {allowed} is allowed")
    elif asserted:
        fits = index <= high if low is None else (index >= low) & (index <= high)
        torch._assert_async(fits.all(), f"{name} is out of range: {allowed} is allowed")
