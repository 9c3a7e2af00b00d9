"""What can be seen of a model from outside: enough to tell whether anything was left on it."""

from __future__ import annotations

from typing import Any

from torch import nn


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Every module's own attributes, hooks by identity, and configs by identity and content."""
    seen: dict[str, Any] = {}
    for name, module in model.named_modules():
        config = getattr(module, "config", None)
        seen[name] = {
            "attributes": sorted(vars(module)),
            "hooks": {
                key: list(value.items()) for key, value in vars(module).items() if key.endswith("hooks") and value
            },
            "methods": {key: value for key, value in vars(module).items() if callable(value)},
            "config": (id(config), dict(vars(config)) if config is not None else None),
        }
    return seen
