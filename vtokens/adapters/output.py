"""What a model makes of the numbers that its output layer puts out."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import torch
from torch import Tensor

from vtokens.adapters.base import Adapter
from vtokens.adapters.decoder import inside


def finished(adapter: Adapter, made: Tensor) -> Tensor:
    """The logits that the model gives where its output layer made these numbers, both (..., V).

    Some cap them, c tanh(x / c) (PaliGemma 2, Gemma 4), or scale them down (Granite).
    """
    kind: Any = type(inside(adapter.model))
    names, config = _read(kind), adapter.language_model.config
    scale = getattr(config, "logits_scaling", None) if "logits_scaling" in names else None
    cap = getattr(config, "final_logit_softcapping", None) if "final_logit_softcapping" in names else None
    if scale is not None:
        made = made / scale
    return made if cap is None else torch.tanh(made / cap) * cap


@functools.cache
def _read(kind: Any) -> frozenset[str]:
    """The attributes, and the names given to `getattr`, that the `forward` of a class reads."""
    code = inspect.unwrap(kind.forward).__code__
    return frozenset({*code.co_names, *(one for one in code.co_consts if isinstance(one, str))})
