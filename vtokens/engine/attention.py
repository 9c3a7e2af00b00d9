"""Standing between an attention module and the implementation the user had chosen for it."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

_PREFIX = "vtokens_"
_HANDLER = "_vtokens_handler"


@dataclass
class Attention:
    """One call of an attention module's implementation.

    Attributes:
        module: the attention module.
        query: (B, H, W, D); in a decoder, rotary embedding applied.
        key, value: (B, H_kv, K, D), cached ones included.
        mask: as the implementation wants it.
        kwargs: what else the module passes on.
    """

    module: nn.Module
    query: Tensor
    key: Tensor
    value: Tensor
    mask: Any
    kwargs: dict[str, Any]

    @property
    def scaling(self) -> float:
        """The factor on the products of query and key."""
        return self.kwargs.get("scaling") or self.query.shape[-1] ** -0.5

    def run(self) -> tuple[Tensor, Any]:
        """(B, W, H, D) and what the implementation returns beside it."""
        module: Any = self.module
        chosen = module.config._attn_implementation.removeprefix(_PREFIX)
        eager: Any = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
        function = ALL_ATTENTION_FUNCTIONS.get_interface(chosen, eager)
        if chosen not in ("sdpa", "eager"):  # the flash integrations read the implementation's name off the config
            config = copy.copy(module.config)
            config._attn_implementation_internal = chosen
            module = _AsChosen(module, config)
        return function(module, self.query, self.key, self.value, self.mask, **self.kwargs)


Handler = Callable[[Attention], tuple[Tensor, Any]]


class _AsChosen:
    """An attention module as its implementation expects it: with the config the user had chosen."""

    def __init__(self, module: nn.Module, config: Any) -> None:
        self._module, self.config = module, config

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


class Tap:
    """Hands each call of one attention module to `handler`, until `remove()`.

    The module gets a copy of its config that names a registered attention function; that function calls the handler,
    which runs the implementation, or answers in its place. Nothing else of the model changes: masks are made for the
    original implementation.
    """

    def __init__(self, module: Any, handler: Handler) -> None:
        self._module, self._config = module, module.config
        name = _PREFIX + (self._config._attn_implementation or "eager")
        AttentionInterface.register(name, _tapped)
        config = copy.copy(self._config)
        config._attn_implementation_internal = name
        # On the copy, so that it lives and dies, and is deep-copied, with the module.
        setattr(config, _HANDLER, handler)
        module.config = config

    def remove(self) -> None:
        """Put the module's own config back."""
        self._module.config = self._config


def _tapped(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any) -> Any:
    handler: Handler = getattr(module.config, _HANDLER)
    return handler(Attention(module, query, key, value, attention_mask, kwargs))
