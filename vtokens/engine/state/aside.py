"""Where modalities stand that strategies leave alone (`Anatomy.aside`): the audio of omni models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vtokens.adapters import Adapter
from vtokens.adapters.tokens import holding


def aside_places(adapter: Adapter, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """modality -> bool (B, N), the positions of its tokens.

    Args:
        inputs: of the multimodal module.
    """
    declared, config = adapter.anatomy.aside.items(), adapter.config
    return {name: holding(getattr(config, one.token), inputs, adapter.multimodal) for name, one in declared}


def any_of(places: Mapping[str, Tensor]) -> Tensor | None:
    """bool (B, N): positions of any modality; None if there is none."""
    return torch.stack([*places.values()]).any(0) if places else None


def several_aside(adapter: Adapter, inputs: Mapping[str, Any]) -> str | None:
    """A modality of which some row holds more than one piece; None if there is none. Reads the device."""
    for name, one in adapter.anatomy.aside.items():
        begins = holding(getattr(adapter.config, one.begin), inputs, adapter.multimodal)
        if int(begins.sum(1).max()) > 1:
            return name
    return None
