"""What can be seen of a model from outside, to tell whether anything was left on it; and what fails to attach."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from vtokens.strategies import Facts, Needs, Strategy


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


@dataclass(frozen=True)
class Astray(Strategy):
    """Acts in the attention of a layer that no model has, which shows only while hooks are being installed."""

    name = "astray"

    def needs(self, facts: Facts) -> Needs:
        return Needs(attend=(99,))

    def at_attend(self, heads: Any) -> None:
        return None
