"""Devices and dtypes by name, checked before a model is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vtokens.core.errors import shorten, unknown

if TYPE_CHECKING:
    import torch

DTYPES = ("auto", "float32", "bfloat16", "float16")
_KINDS = ("cpu", "cuda", "mps", "xpu")


def devices() -> list[str]:
    """Names of the devices that torch sees here: "cpu", "cuda:0", ..."""
    import torch

    found = ["cpu"]
    for kind in _KINDS[1:]:
        module = getattr(torch, kind, None)
        count = module.device_count() if module is not None and _available(kind) else 0
        found += [f"{kind}:{number}" for number in range(count)]
    return found


def check_device(name: str) -> torch.device:
    """The device called `name`.

    Raises:
        ValueError: there is none here, or nowhere; names those that are here.
    """
    import torch

    kind, _, number = name.partition(":")
    here = devices()
    if kind not in _KINDS or (":" in name and not number.isdecimal()):
        error = unknown("device", name, [*here, *_KINDS])
        raise ValueError(f"{str(error).partition(' Allowed:')[0]} Here there is: {', '.join(here)}")
    if name not in here and name != "cpu:0" and not (name == kind and f"{kind}:0" in here):
        raise ValueError(f"device {shorten(name)} is not to be had: torch {torch.__version__} sees {', '.join(here)}")
    return torch.device(name)


def check_dtype(name: str) -> torch.dtype | str:
    """The dtype called `name`, or "auto", which `from_pretrained` takes for the one that was saved.

    Raises:
        ValueError: none of `DTYPES`; names the nearest.
    """
    import torch

    if name not in DTYPES:
        raise unknown("dtype", name, DTYPES)
    found: torch.dtype | str = name if name == "auto" else getattr(torch, name)
    return found


def _available(kind: str) -> bool:
    import torch

    home = torch.backends.mps if kind == "mps" else getattr(torch, kind)
    return bool(home.is_available())
