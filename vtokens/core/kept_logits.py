"""Models that give no more logits than they are asked for (`logits_to_keep`)."""

from __future__ import annotations

import functools
import inspect
from typing import Any


@functools.cache
def cuts_logits(kind: Any) -> bool:
    """Whether models of this class give the logits alone that `logits_to_keep` asks for."""
    return "logits_to_keep" in inspect.signature(kind.forward).parameters


def last_alone(model: Any) -> dict[str, int]:
    """The keyword argument by which a model gives the logits of the last position alone; nothing if it gives all."""
    kind: Any = type(model)
    return {"logits_to_keep": 1} if cuts_logits(kind) else {}
