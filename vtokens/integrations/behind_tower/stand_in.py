"""The adapter of a model that another engine runs: of a transformers model of the same shape, without weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import AutoModelForImageTextToText

from vtokens.adapters import Adapter, adapter_for


def stand_in(config: Any) -> Adapter:
    """The adapter of a model of that config, on the meta device.

    It says what the adapter of the loaded model would say of shapes: facts, pictures, and where scores of the tower
    belong. Nothing can be computed with it.

    Args:
        config: a transformers config, which is left as it is.

    Raises:
        ValueError: the family has no adapter.
    """
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(copy.deepcopy(config))
    return adapter_for(model)
