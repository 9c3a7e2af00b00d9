"""Models inside other modules: what `torch.compile`, `DataParallel` and peft put around them."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedModel

_WRAPPERS = {
    "OptimizedModule": "_orig_mod",
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "FullyShardedDataParallel": "module",
}
"""Class of a wrapper -> the name of what is inside; by name, since torch may be built without some of them."""


def unwrapped(model: Any) -> Any:
    """The transformers model inside wrappers; what is none of them is returned as it is.

    Raises:
        TypeError: a module that holds a transformers model in some other way; names where.
        ValueError: a PeftModel that feeds tokens of its own.
    """
    while isinstance(model, nn.Module) and not isinstance(model, PreTrainedModel):
        inside = next(
            (model._modules.get(_WRAPPERS[c.__name__]) for c in type(model).__mro__ if c.__name__ in _WRAPPERS), None
        )
        if inside is None and hasattr(type(model), "get_base_model"):
            wrapper: Any = model
            if getattr(wrapper.active_peft_config, "is_prompt_learning", False):
                raise ValueError(
                    f"a {type(model).__name__} with {wrapper.active_peft_config.peft_type.value} feeds tokens of its "
                    "own in front of the prompt, of which no layout tells: use adapters that change weights, as LoRA"
                )
            inside = wrapper.get_base_model()
        if inside is None:
            held = next((name for name, part in model.named_modules() if isinstance(part, PreTrainedModel)), None)
            if held is not None:
                raise TypeError(f"{type(model).__name__} is not a transformers model, but holds one: give its .{held}")
            return model
        model = inside
    return model
