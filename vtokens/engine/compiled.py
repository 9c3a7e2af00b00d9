"""Hooks under torch.compile: steps that only need their masks cut are traced, all else runs beside the graphs.

A traced step changes no Python state and reads nothing that differs from step to step, so that it is compiled once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vtokens.core.compat import given_cache
from vtokens.engine.attention.tap import AttentionCall
from vtokens.engine.state.cache_layers import shortened

Args = tuple[Any, ...]
Kwargs = dict[str, Any]
_FED = ("input_ids", "inputs_embeds", "hidden_states")
_OTHERS = ("pixel_values", "pixel_values_videos", "mm_encoder_outputs", "inputs_embeds", "labels")


def notice_hooks() -> None:
    """Let torch.compile notice hooks that come and go, which it takes to stay as they were; graphs made so are dropped.

    Whoever compiled steps before strategies were attached, or while others were, would go on with those. The setting is
    the process's, as torch has none for one model, and stays when strategies are gone: graphs that were made while
    torch did not look would have to be dropped each time that strategies are attached again. What it costs is a look at
    the hooks of a graph's modules whenever that graph is called.
    """
    if torch._dynamo.config.skip_nnmodule_hook_guards:
        torch._dynamo.config.skip_nnmodule_hook_guards = False
        torch._dynamo.reset()


def untraced(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that torch.compile does not look into."""
    outside: Callable[..., Any] = torch.compiler.disable(function)

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        return (outside if torch.compiler.is_compiling() else function)(*args, **kwargs)

    return run


def traced(
    light: Callable[..., bool], step: Callable[..., Any] | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A method of `Hooks` that is traced in steps of one token if what runs on the model lets it (`Hooks.light`).

    Args:
        light: whether the method is called in such a step, from its arguments.
        step: what the method does in it; None if nothing.
    """

    def decorate(method: Callable[..., Any]) -> Callable[..., Any]:
        outside: Callable[..., Any] = torch.compiler.disable(method)

        @functools.wraps(method)
        def hook(self: Any, *args: Any) -> Any:
            if not torch.compiler.is_compiling():
                return method(self, *args)
            if self.light and light(*args):
                return None if step is None else step(*args)
            return outside(self, *args)

        return hook

    return decorate


def without_pictures(module: Any, args: Args, kwargs: Kwargs) -> bool:
    """Whether the model is given tokens alone; torch compiles this hook by itself, so that it looks at no shape."""
    return len(args) < 2 and not any(kwargs.get(name) is not None for name in _OTHERS)


def entering(module: Any, args: Args, kwargs: Kwargs, *rest: Any) -> bool:
    """Whether one token enters a module."""
    fed: Any = args[0] if args else next((kwargs[name] for name in _FED if kwargs.get(name) is not None), None)
    return isinstance(fed, Tensor) and fed.shape[1] == 1


def entering_layer(index: Any, module: Any, args: Args, kwargs: Kwargs, *rest: Any) -> bool:
    """Whether one token enters a decoder layer, or a part of one."""
    return entering(module, args, kwargs)


def leaving(module: Any, args: Args, result: Any) -> bool:
    """Whether one token leaves a module."""
    return result is not None and bool(result[0].shape[1] == 1)


def attending(index: int, attention: AttentionCall) -> bool:
    """Whether one token attends."""
    return bool(attention.query.shape[2] == 1)


def attend_alone(index: int, attention: AttentionCall) -> tuple[Tensor, Any]:
    """What the implementation gives."""
    return attention.run()


def cut_mask(index: int, module: Any, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs] | None:
    """The arguments of decoder layer `index` in a step, with a mask over the keys that it holds."""
    layer = shortened(given_cache(kwargs), index)
    if layer is None:
        return None
    return args, {**kwargs, "attention_mask": layer.mask(kwargs.get("attention_mask"))}
