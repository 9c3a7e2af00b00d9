"""Taps on attention modules: a handler gets each call before the implementation that the user has chosen runs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from vtokens.adapters.decoder import beside, inside
from vtokens.engine.context import Follower
from vtokens.engine.state.computed import Computed

_PREFIX = "vtokens_"
_TAPPED: dict[str, str] = {}
"""By the name of an implementation, that under which it is registered with a tap before it."""


@dataclass
class AttentionCall:
    """One call of an attention module's implementation.

    Attributes:
        module: the attention module.
        query: (B, H, W, D); in a decoder, rotary embedding applied.
        key, value: (B, H_kv, K, D), cached ones included.
        mask: as the implementation wants it.
        kwargs: what else the module passes on.
        rows: the rows that are computed, where others need no output; they get 0. None if all are.
        bias: float32 (B, K) or (B, H_kv, K), what is added to the scores of each key; None if nothing.
    """

    module: nn.Module
    query: Tensor
    key: Tensor
    value: Tensor
    mask: Any
    kwargs: dict[str, Any]
    bias: Tensor | None = None
    rows: Computed | None = None

    @property
    def scaling(self) -> float:
        """The factor on the products of query and key."""
        return self.kwargs.get("scaling") or self.query.shape[-1] ** -0.5

    @property
    def softcap(self) -> float | None:
        """c, where scores s become c * tanh(s / c) (Gemma 2); None if they stay as they are."""
        cap: float | None = self.kwargs.get("softcap")
        return cap

    def run(self) -> tuple[Tensor, Any]:
        """(B, W, H, D) and what the implementation returns beside it; the implementation is read at each call."""
        if self.rows is not None and self.rows.fewer and (mask := self._mask_of(self.rows)) is not None:
            query = self.rows.take(self.query, 2)
            output, _ = replace(self, query=query, mask=mask, rows=None).run()
            return self.rows.put(output), None
        module: Any = self.module
        config, chosen = self._chosen()
        if self.bias is not None:
            if chosen == "sdpa" and self._is_step:
                return self._step(self.bias)
            output, weights = self._with_bias(self.bias).run()
            return output[..., : self.value.shape[-1]].contiguous(), weights
        eager: Any = beside(type(module), "eager_attention_forward") if chosen == "eager" else None
        function = ALL_ATTENTION_FUNCTIONS.get_interface(chosen, eager)
        kwargs = self.kwargs
        if eager is not None and kwargs.get("scaling", 1) is None:  # towers may have an eager function of their own
            kwargs = {**kwargs, "scaling": self.scaling}
        if chosen not in ("sdpa", "eager"):  # the flash integrations read the implementation's name off the config
            module = _AsChosen(module, config)
        return function(module, self.query, self.key, self.value, self.mask, **kwargs)

    @property
    def _is_step(self) -> bool:
        """Whether a mask over keys is the cheapest place for the bias: one row attends, and it does so exactly.

        In half precision, SDPA takes a mask in single precision on a CPU alone.
        """
        plain = self.mask is None or self.mask.shape[1] == 1
        exact = self.query.device.type == "cpu" or self.query.dtype == torch.float32
        return self.query.shape[2] == 1 and plain and exact and not self.kwargs.get("dropout")

    def _step(self, bias: Tensor) -> tuple[Tensor, None]:
        """(B, 1, H, D): SDPA for one row, the bias in a mask, so that no cached key or value is copied.

        Heads that share a key head are its rows: nothing is repeated either.
        """
        (batch, heads, _, width), shared, length = self.query.shape, self.key.shape[1], self.key.shape[2]
        mask = bias[:, None, None] if bias.dim() == 2 else bias[:, :, None]
        if self.mask is not None:
            shown, low = self.mask[..., :length], torch.finfo(torch.float32).min
            mask = mask.masked_fill(~shown, low) if shown.dtype == torch.bool else (mask + shown).clamp(min=low)
        rows = self.query.view(batch, shared, heads // shared, width)
        output = torch.nn.functional.scaled_dot_product_attention(
            rows, self.key, self.value, attn_mask=mask, scale=self.scaling
        )
        return output.view(batch, 1, heads, self.value.shape[-1]), None

    def _chosen(self) -> tuple[Any, str]:
        """The config of the module, and the implementation that the user has chosen."""
        module: Any = self.module
        config = module.config.real if isinstance(module.config, _Tapped) else module.config
        return config, (config._attn_implementation or "eager").removeprefix(_PREFIX)

    def _mask_of(self, rows: Computed) -> Tensor | None:
        """The mask of some rows; None where the implementation knows no masks, but that queries are the last keys."""
        if isinstance(self.mask, Tensor) and self.mask.dim() == 4:
            return rows.take(self.mask, 2)
        causal = self.kwargs.get("is_causal", getattr(self.module, "is_causal", True))
        if self.mask is not None or self._chosen()[1] != "sdpa" or not causal:
            return None
        last = rows.index + self.key.shape[2] - self.query.shape[2]
        return (torch.arange(self.key.shape[2], device=last.device) <= last[..., None])[:, None]

    def _with_bias(self, bias: Tensor) -> AttentionCall:
        """The same call with the bias in the head dimension, so that no kernel needs a mask for it.

        Queries get two ones, keys the bias in two parts, which keeps it exact in half precision; the width grows by 8
        in all, as kernels want it, and values are padded alike, or SDPA leaves its fused kernels.
        """
        key, query = self.key, self.query
        scaled = (bias if bias.dim() == 3 else bias[:, None].expand(-1, key.shape[1], -1)) / self.scaling
        high = scaled.to(key.dtype)
        low = (scaled - high.float()).to(key.dtype)
        more = torch.stack([high, low, *[torch.zeros_like(high)] * 6], -1)
        ones = torch.nn.functional.pad(query.new_ones(*query.shape[:-1], 2), (0, 6))
        return replace(
            self, query=torch.cat([query, ones], -1), key=torch.cat([key, more], -1),
            value=torch.nn.functional.pad(self.value, (0, 8)), kwargs={**self.kwargs, "scaling": self.scaling},
            bias=None,
        )  # fmt: skip


Handler = Callable[[AttentionCall], tuple[Tensor, Any]]


class _AsChosen:
    """An attention module as its implementation expects it: with the config the user had chosen."""

    def __init__(self, module: nn.Module, config: Any) -> None:
        self._module, self.config = module, config

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


class _Tapped:
    """The config of a tapped attention module: the module's own in all but the implementation's name.

    Attributes:
        real: that config.
        handler: what calls are handed to. Here, so that it lives and dies, and is deep-copied, with the module.
        home: the model's part that is copied where the whole model is.
    """

    def __init__(self, real: Any, handler: Handler, home: Any) -> None:
        self.__dict__.update(real=real, handler=handler, home=home)

    @property
    def _attn_implementation(self) -> str:
        chosen = self.real._attn_implementation or "eager"
        if chosen not in _TAPPED:
            AttentionInterface.register(_PREFIX + chosen, _tapped)
            _TAPPED[chosen] = _PREFIX + chosen
        return _TAPPED[chosen]

    def __getattr__(self, name: str) -> Any:
        if name in ("real", "handler", "home"):  # asked for before they are set, while a copy is being made
            raise AttributeError(name)
        return getattr(self.real, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.real, name, value)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self.home) not in memo:  # a module that is copied alone has no tap
            return copy.deepcopy(self.real, memo)
        new = memo[id(self)] = _Tapped.__new__(_Tapped)
        new.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return new

    def __copy__(self) -> Any:  # whoever wants another config to change means the module's own
        return copy.copy(self.real)


class Tap(Follower):
    """Hands each call of one attention module to `handler`, until `remove()`.

    The module gets a config that names a registered attention function; that function calls the handler, which runs the
    implementation, or answers in its place. Nothing else of the model changes: masks are made for the implementation
    that the user has chosen, now or later.
    """

    def __init__(self, module: Any, handler: Handler, home: Any) -> None:
        self._handler, self._home = handler, home
        self._put(inside(module))

    def follow(self, module: Any) -> None:
        """Go to another module, or to the same one with another config, if one took the place of the first."""
        module = inside(module)
        if not self._is_on(module):
            super().follow(module)

    def _is_on(self, module: Any) -> bool:
        return module is self._module and module.config is self._config

    def _leave(self) -> None:
        if self._module.config is self._config:
            self._module.config = self._config.real

    def _put(self, module: Any) -> None:
        self._module, self._config = module, _Tapped(module.config, self._handler, self._home)
        module.config = self._config


def _tapped(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any) -> Any:
    if torch.is_autocast_enabled(query.device.type):
        # Where rotation left queries and keys wider than values: every implementation gets this dtype from autocast.
        query, key, value = (part.to(torch.get_autocast_dtype(query.device.type)) for part in (query, key, value))
    attention, config = AttentionCall(module, query, key, value, attention_mask, kwargs), module.config
    # In the middle of a call, another thread may have taken its tap off.
    return config.handler(attention) if isinstance(config, _Tapped) else attention.run()
