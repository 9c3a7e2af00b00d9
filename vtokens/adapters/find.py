"""The adapter of a live model, whatever is around it."""

from __future__ import annotations

from transformers import PreTrainedModel

from vtokens.adapters.base import Adapter
from vtokens.adapters.registry import adapter_class, models
from vtokens.adapters.wrappers import unwrapped


def adapter_for(model: object) -> Adapter:
    """The adapter of a live model, which may be inside of what `torch.compile`, `DataParallel` or peft make of it.

    Raises:
        TypeError: not a transformers model.
        ValueError: its class has no adapter (names the supported ones, or the part of it that has one), or no language
            model inside.
    """
    model = unwrapped(model)
    if not isinstance(model, PreTrainedModel):
        raise TypeError(f"{type(model).__name__} is not a transformers model: a loaded PreTrainedModel is allowed")
    try:
        cls = adapter_class(model.config.model_type)
    except ValueError as error:
        known = models()
        parts = ((name, part) for name, part in model.named_modules() if name and isinstance(part, PreTrainedModel))
        held = next((name for name, part in parts if part.config.model_type in known), None)
        if held is not None:
            raise ValueError(
                f"{type(model).__name__} is a {model.config.model_type!r} around a model that is supported: attach to "
                f"its .{held}, and call either"
            ) from None
        raise ValueError(f"{type(model).__name__}: {error}") from None
    return cls.of(model)
