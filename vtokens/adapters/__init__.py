"""Adapters: one file a model family, found by `config.model_type`."""

import importlib
import pkgutil

from vtokens.adapters.base import Adapter, adapter_class, adapter_for, models, register_adapter

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["Adapter", "adapter_class", "adapter_for", "models", "register_adapter"]
