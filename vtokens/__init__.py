"""Visual-token pruning for vision-language models on Hugging Face transformers: a strategy is a name."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from vtokens.core import moved, refusals
from vtokens.core.errors import with_cause
from vtokens.loading.torchvision import set_aside_if_broken

__version__ = "0.2.0"

# name -> the module that defines it; imported on first use, so that `import vtokens` stays light.
_EXPORTS = {
    "attach": "vtokens.engine",
    "attachment": "vtokens.engine",
    "compare": "vtokens.report.compare",
    "describe": "vtokens.strategies",
    "detach": "vtokens.engine",
    "from_pretrained": "vtokens.loading.saved",
    "load": "vtokens.loading.load",
    "models": "vtokens.adapters",
    "save_pretrained": "vtokens.loading.saved",
    "Contraster": "vtokens.strategies",
    "Evictor": "vtokens.strategies",
    "HallucinationFilter": "vtokens.filter",
    "Handle": "vtokens.engine",
    "Merger": "vtokens.strategies",
    "Report": "vtokens.engine",
    "Risk": "vtokens.filter",
    "ScorePruner": "vtokens.strategies",
    "Steerer": "vtokens.strategies",
    "Strategy": "vtokens.strategies",
    "register": "vtokens.strategies",
}
__all__ = sorted([*_EXPORTS, "__version__", "strategies"])

if TYPE_CHECKING:
    from vtokens.adapters import models as models
    from vtokens.engine import Handle as Handle
    from vtokens.engine import Report as Report
    from vtokens.engine import attach as attach
    from vtokens.engine import attachment as attachment
    from vtokens.engine import detach as detach
    from vtokens.filter import HallucinationFilter as HallucinationFilter
    from vtokens.filter import Risk as Risk
    from vtokens.loading.load import load as load
    from vtokens.loading.saved import from_pretrained as from_pretrained
    from vtokens.loading.saved import save_pretrained as save_pretrained
    from vtokens.report.compare import compare as compare
    from vtokens.strategies import Contraster as Contraster
    from vtokens.strategies import Evictor as Evictor
    from vtokens.strategies import Merger as Merger
    from vtokens.strategies import ScorePruner as ScorePruner
    from vtokens.strategies import Steerer as Steerer
    from vtokens.strategies import Strategy as Strategy
    from vtokens.strategies import _Listing
    from vtokens.strategies import describe as describe
    from vtokens.strategies import register as register

    # Called, it lists names; a checker that took it for the package would refuse that.
    strategies: _Listing


def _refusal(name: str, family: str) -> str:
    from vtokens.adapters.fits import refusal

    return refusal(name, family)


moved.install()
refusals.known_by(_refusal)
set_aside_if_broken()  # before anything here imports transformers


if not TYPE_CHECKING:  # a checker is to miss names that are not there

    def __getattr__(name: str) -> Any:
        if name == "strategies":  # the subpackage, which lists names when called
            return importlib.import_module("vtokens.strategies")
        if name not in _EXPORTS:
            raise AttributeError(f"module 'vtokens' has no attribute {name!r}")
        try:
            return getattr(importlib.import_module(_EXPORTS[name]), name)
        except ImportError as error:
            raise with_cause(error) from error


def __dir__() -> list[str]:
    return __all__
