"""Watching attention without touching it: q and k are read beside the implementation the user had chosen."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

_PREFIX = "vtokens_"
Watcher = Callable[[nn.Module, Tensor, Tensor, float, dict[str, Any]], None]
_WATCHER = "_vtokens_watcher"


class _AsChosen:
    """An attention module as its implementation expects it: with the config the user had chosen."""

    def __init__(self, module: nn.Module, config: Any) -> None:
        self._module, self.config = module, config

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


class Watch:
    """Lets `watcher(module, query, key, scaling, kwargs)` see each call of one attention module, until `remove()`.

    The module gets a copy of its config that names a registered attention function; that function reports and passes
    the call on. Nothing else of the model changes: masks are made for the original implementation.
    """

    def __init__(self, module: Any, watcher: Watcher) -> None:
        self._module, self._config = module, module.config
        chosen = self._config._attn_implementation or "eager"
        name = _PREFIX + chosen
        AttentionInterface.register(name, _watched)
        config = copy.copy(self._config)
        config._attn_implementation_internal = name
        # On the copy, so that it lives and dies, and is deep-copied, with the module.
        setattr(config, _WATCHER, watcher)
        module.config = config

    def remove(self) -> None:
        """Put the module's own config back."""
        self._module.config = self._config


def _watched(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any) -> Any:
    chosen = module.config._attn_implementation.removeprefix(_PREFIX)
    watcher: Watcher = getattr(module.config, _WATCHER)
    watcher(module, query, key, kwargs.get("scaling") or query.shape[-1] ** -0.5, kwargs)
    eager: Any = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    function = ALL_ATTENTION_FUNCTIONS.get_interface(chosen, eager)
    if chosen not in ("sdpa", "eager"):  # the flash integrations read the implementation's name off the config
        config = copy.copy(module.config)
        config._attn_implementation_internal = chosen
        module = _AsChosen(module, config)
    return function(module, query, key, value, attention_mask, **kwargs)
