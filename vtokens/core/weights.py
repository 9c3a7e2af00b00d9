"""Looking at a model's weights, wherever they are: on a device, sharded over several, quantised or offloaded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

_WRAPPERS = ("_checkpoint_wrapped_module", "_fsdp_wrapped_module", "_orig_mod")
"""Modules that wrap another one hold it under these names."""


def named(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters of a module, under the names they have where nothing is wrapped."""
    for name, parameter in module.named_parameters():
        yield ".".join(part for part in name.split(".") if part not in _WRAPPERS), parameter


def whole_shape(parameter: Tensor) -> tuple[int, ...]:
    """The shape of a parameter as a whole, of which this process may hold a part or nothing (DeepSpeed's ZeRO-3)."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


@torch.no_grad()
def whole(module: nn.Module, name: str, parameter: Tensor) -> Tensor | None:
    """The values of a parameter, all of them and in floating point; None if they cannot be had.

    Sharded ones are gathered, so that every process has to ask for the same ones; quantised ones are dequantised, which
    gives other values than those they were made from; offloaded ones are read from where accelerate keeps them.

    Args:
        module: holds the parameter.
        name: its name there, as `named` gives it.
        parameter: itself.
    """
    if hasattr(parameter, "ds_id"):
        from deepspeed.zero import GatheredParameters

        with GatheredParameters([parameter]):
            return parameter.detach().clone()
    if parameter.is_meta:
        return _offloaded(module, name)
    if hasattr(parameter, "full_tensor"):
        parameter = parameter.full_tensor()
    # Every tensor has the method; those that are made to hide how they are quantised have one of their own.
    if type(parameter).dequantize is not Tensor.dequantize:
        parameter = parameter.dequantize()
    if not parameter.is_floating_point() or not parameter.numel():
        return None
    return parameter.detach().to(torch.bfloat16) if parameter.dtype.itemsize < 2 else parameter.detach()


def sample(module: nn.Module) -> tuple[float, ...]:
    """Sixteen numbers from a module's first matrix, which tell modules of one shape apart; none if it is unreadable."""
    first = next(((name, p) for name, p in named(module) if len(whole_shape(p)) > 1), None)
    weight = None if first is None else whole(module, *first)
    if weight is None:
        return ()
    return tuple(weight.flatten()[:: max(1, weight.numel() // 16)][:16].float().tolist())


def doubts(module: nn.Module) -> str | None:
    """Why a model's weights do not tell which model it is, in words that follow "its weights"; None if they do."""
    for name, parameter in named(module):
        if hasattr(parameter, "ds_id") or hasattr(parameter, "full_tensor"):
            continue
        if parameter.is_meta:
            if _offloaded(module, name) is None:
                return "are on no device"
        elif not parameter.numel():
            return "are sharded in a way that cannot be gathered here"
        elif (
            not parameter.is_floating_point()
            or parameter.dtype.itemsize < 2
            or type(parameter).dequantize is not Tensor.dequantize
        ):
            return "are quantised"
    return None


def input_device(model: Any) -> torch.device:
    """The device that a model takes its inputs on: that of its weights, or where accelerate brings offloaded ones."""
    device: torch.device = model.device
    if device.type != "meta":
        return device
    found = (getattr(hook, "execution_device", None) for part in model.modules() for hook in _hooks(part))
    place = next((place for place in found if place is not None), device)
    return torch.device("cuda", place) if isinstance(place, int) else torch.device(place)


def _hooks(module: nn.Module) -> list[Any]:
    """accelerate's hooks on one module."""
    hook = getattr(module, "_hf_hook", None)
    return [] if hook is None else list(getattr(hook, "hooks", [hook]))


def _offloaded(module: nn.Module, name: str) -> Tensor | None:
    """What accelerate keeps of a parameter for the time when its module runs."""
    path = name.split(".")
    for depth in range(len(path) - 1, -1, -1):
        for hook in _hooks(module.get_submodule(".".join(path[:depth]))):
            kept = getattr(hook, "weights_map", None)
            try:
                if kept is not None:
                    found: Tensor = kept[".".join(path[depth:])]
                    return found
            except KeyError:
                continue
    return None
