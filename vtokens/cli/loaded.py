"""A model as commands look into it: loaded where it is to run, and nothing attached that acts."""

from __future__ import annotations

from typing import Any


def plain_model(name: str, dtype: str, device: Any) -> tuple[Any, Any]:
    """Load a model without a strategy, put it on a device, and leave training mode.

    Args:
        name: an embedded model, a folder or a hub id.
        dtype: as of --dtype.
        device: of `check_device`.

    Returns:
        The model and its processor.
    """
    import vtokens

    model: Any
    model, processor = vtokens.load(name, strategy="none", dtype=dtype)
    return model.to(device).eval(), processor
