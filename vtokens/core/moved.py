"""Modules and classes under the names they had before: for one more release these give the new ones, and warn."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MOVED = {
    "api": "loading.load",
    "budget": "core.budget",
    "compat": "core.compat",
    "costs": "core.costs",
    "eval.report": "report",
    "filter.labels": "filter.calibrators.labels",
    "groups": "core.groups",
    "hub": "loading.hub",
    "images": "core.images",
    "layout": "core.layout",
    "options": "loading.options",
    "overlay": "core.overlay",
    "patterns": "tables.patterns",
    "picture": "core.picture",
    "processors": "loading.processors",
    "saved": "loading.saved",
    "sinks": "tables.sinks",
    "strategies.avisc": "strategies.contrast.avisc",
    "strategies.cls": "strategies.prune.cls",
    "strategies.damro": "strategies.contrast.damro",
    "strategies.dymu": "strategies.merge.dymu",
    "strategies.fastv": "strategies.prune.fastv",
    "strategies.heads": "strategies.views.heads",
    "strategies.logits": "strategies.views.logits",
    "strategies.lqcd": "strategies.contrast.lqcd",
    "strategies.m3id": "strategies.contrast.m3id",
    "strategies.mminference": "strategies.attend.mminference",
    "strategies.pai": "strategies.attend.pai",
    "strategies.patches": "strategies.views.patches",
    "strategies.random": "strategies.prune.random",
    "strategies.todre": "strategies.prune.todre",
    "strategies.uniform": "strategies.prune.uniform",
    "strategies.var": "strategies.attend.var",
    "strategies.vcd": "strategies.contrast.vcd",
    "strategies.vhr": "strategies.attend.vhr",
    "thresholds": "tables.thresholds",
    "versions": "core.versions",
    "weights": "core.weights",
}
"""Old name -> new one, both inside the package. Names with a leading underscore were nobody's business."""

RENAMED = {
    "engine.report": {"BranchReport": "NegativeReport"},
    "filter": {"Record": "LabelledResponse", "Report": "ResponseReport"},
    "filter.calibrators.records": {"Record": "LabelledResponse"},
    "filter.guarantees.setting": {"Setting": "CalibrationSetting"},
    "filter.report": {"Report": "ResponseReport"},
    "tables.thresholds": {"Setting": "TargetThresholds"},
}
"""Of each module: old name -> new one. Two classes of one name could not be told apart in a traceback."""


ELSEWHERE = {"adapters.base": {"register_adapter": "adapters.registry"}}
"""Of each module: a documented name -> the module that defines it now. Either place is right, so none warns."""


def elsewhere(module: str, name: str) -> Any:
    """A module's attribute `name` from where it is defined now; for its `__getattr__`.

    Args:
        module: its full name.
        name: an attribute that it has not.

    Raises:
        AttributeError: it never had.
    """
    return getattr(importlib.import_module(f"vtokens.{_looked_up(ELSEWHERE, module, name)}"), name)


def renamed(module: str, name: str) -> Any:
    """What a module's attribute `name` is called now, with a warning; for its `__getattr__`.

    Args:
        module: its full name.
        name: an attribute that it has not.

    Raises:
        AttributeError: it never had.
    """
    new, old = _looked_up(RENAMED, module, name), f"{module}.{name}"
    warnings.warn(f"{old} is now {module}.{new}; the old name goes away in 0.3", DeprecationWarning, stacklevel=3)
    return getattr(sys.modules[module], new)


def _looked_up(names: Mapping[str, Mapping[str, str]], module: str, name: str) -> str:
    """What `names` has for an attribute of a module; `AttributeError`, as the module would say it, for none."""
    found = names.get(module.partition(".")[2], {}).get(name)
    if found is None:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    return found


class Member:
    """A member of a class under the name it had before, which warns; written `old = Member("new")` in the class."""

    def __init__(self, new: str) -> None:
        self.new = new

    def __set_name__(self, owner: type, name: str) -> None:
        self.old = name

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self
        old, new = f"{owner.__name__}.{self.old}", f"{owner.__name__}.{self.new}"
        warnings.warn(f"{old} is now {new}; the old name goes away in 0.3", DeprecationWarning, stacklevel=2)
        return getattr(instance, self.new)


class _Moved(MetaPathFinder, Loader):
    """Finds a module under its old name: the very module that its new name imports."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        package, _, inside = name.partition(".")
        return ModuleSpec(name, self) if package == "vtokens" and inside in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        old, new = module.__name__, f"vtokens.{MOVED[module.__name__.partition('.')[2]]}"
        warnings.warn(f"{old} is now {new}; the old name goes away in 0.3", DeprecationWarning, stacklevel=2)
        # What is imported is what sys.modules holds once the loader is done.
        sys.modules[old] = importlib.import_module(new)


def install() -> None:
    """Let old names be found, after everything else that can be."""
    if not any(isinstance(finder, _Moved) for finder in sys.meta_path):
        sys.meta_path.append(_Moved())
