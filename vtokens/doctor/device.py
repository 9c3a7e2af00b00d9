"""The device that models would run on."""

from __future__ import annotations


def device() -> tuple[str, str]:
    """The name torch has for it ("cuda", "cpu", ...), and what it is in words."""
    import torch

    if torch.cuda.is_available():
        count, memory = torch.cuda.device_count(), torch.cuda.get_device_properties(0).total_memory
        return "cuda", f"{count} x {torch.cuda.get_device_name(0)}, {memory / 2**30:.0f} GiB"
    for name in ("xpu", "mps"):
        if getattr(torch, name, None) is not None and getattr(torch, name).is_available():
            return name, "available"
    built = torch.version.cuda and f"; torch is built for CUDA {torch.version.cuda}, but no device is found"
    return "cpu", f"{torch.get_num_threads()} threads{built or ''}"
