"""Hooks on a model whose visual tokens stand outside the sequence (`Anatomy.cross`): what `hooks` is for all others.

    module           hook       function             phase before -> after
    model, model.model          as in `hooks`        none -> Outer -> Request
    vision tower     both       CrossTower           Request             (a run of the tower is noted)
    language_model   before     on_language_model    Request -> Crossing (features and mask are cut)
    language_model   after      on_output            Crossing            (cache layers are told)

The sequence itself is left alone, so that no hook stands on a decoder layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from vtokens.core.compat import given_cache, returned_cache
from vtokens.engine.checks.arguments import check_arguments
from vtokens.engine.compiled import entering, traced, untraced
from vtokens.engine.context import here
from vtokens.engine.hooks import Hooks
from vtokens.engine.record import Record
from vtokens.engine.stages import cross_cache
from vtokens.engine.stages.cross import select_features
from vtokens.engine.stages.tower_call import TowerCall
from vtokens.engine.state.cross_keys import Columns
from vtokens.engine.state.request import Request

Args = tuple[Any, ...]
Kwargs = dict[str, Any]


@dataclass(frozen=True)
class Crossing:
    """A call of the decoder whose cross-attention layers hold what is left of their keys.

    Attributes:
        record: what was done to pictures that it brings; None if it brings none.
        columns: the keys that are left; None if none were dropped.
    """

    record: Record | None
    columns: Columns | None


class CrossTower:
    """Notes the runs of a tower that its multimodal module calls by itself, until `remove()`."""

    def __init__(self, hooks: Hooks) -> None:
        self._hooks, tower = hooks, hooks.adapter.tower.module
        self._handles = (
            tower.register_forward_pre_hook(self._begin, with_kwargs=True),
            tower.register_forward_hook(self._end, always_call=True),
        )

    def remove(self) -> None:
        """Stop watching."""
        for handle in self._handles:
            handle.remove()

    @untraced
    def _begin(self, module: nn.Module, args: Args, kwargs: Kwargs | None = None) -> None:
        block = self._hooks.block()
        if block is None or kwargs is None or args:
            here().tower = None
        else:
            here().tower = TowerCall(self._hooks.adapter, block.plan, "image", kwargs)

    @untraced
    def _end(self, module: nn.Module, args: Args, result: Any = None) -> None:
        call, here().tower = here().tower, None
        if isinstance(call, TowerCall) and call.adapter is self._hooks.adapter and result is not None:
            self._hooks.on_features(call.over())


def on_language_model(hooks: Hooks, module: nn.Module, args: Args, kwargs: Kwargs | None = None) -> Any:
    """A pass of the decoder begins: what it is handed is cut to the keys that are left."""
    if torch.compiler.is_compiling() and hooks.light and kwargs is not None and entering(module, args, kwargs):
        return _step(hooks, args, kwargs)
    return _enter(hooks, args, kwargs)


def _step(hooks: Hooks, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs] | None:
    """The arguments of the decoder in a traced step of one token."""
    columns = cross_cache.held_columns(given_cache(kwargs))
    if columns is None:
        return None
    return args, cross_cache.cut_inputs(hooks.adapter, kwargs, columns)


@untraced
def _enter(hooks: Hooks, args: Args, kwargs: Kwargs | None) -> Any:
    phase, adapter = here().phase(hooks), hooks.adapter
    if kwargs is None:
        return hooks.forget_call()
    name = cross_cache.inputs_of(adapter).states
    states, cache, record, left = kwargs.get(name), given_cache(kwargs), None, None
    fed: Any = next((kwargs[name] for name in ("input_ids", "inputs_embeds") if kwargs.get(name) is not None), None)
    states = None if states is None else states.reshape(len(fed), -1, states.shape[-1])
    if isinstance(phase, Request) and states is not None and phase.fits(fed):
        if not phase.runs and phase.plan:
            raise ValueError(
                f"{name} were given, and only a run of the tower tells which of them are tiles of pictures: pass "
                "pixel_values, or detach() the strategy"
            )
        if phase.runs:
            record, left = select_features(adapter, phase.plan, phase.runs[-1], states, fed)
    columns = cross_cache.columns_after(adapter, cache, None if left is None else left.columns, states)
    if columns is not None or (isinstance(phase, Request) and phase.plan and phase.runs):
        check_arguments(adapter, kwargs)
    if left is not None and columns is not None and isinstance(phase, Request):
        columns = cross_cache.make_room(adapter, phase.plan, cache, columns)
    here().enter(hooks, Crossing(record, columns))
    if columns is None:
        return None
    changed = cross_cache.cut_inputs(adapter, kwargs, columns)
    if left is not None:
        changed[name] = left.states
    return args, changed


@traced(entering)
def on_output(hooks: Hooks, module: nn.Module, args: Args, kwargs: Any, result: Any = None) -> None:
    phase, block = here().phase(hooks), hooks.block()
    if not isinstance(phase, Crossing) or result is None:
        return
    hooks.forget_call()
    if phase.record is not None and block is not None:
        block.records.note(phase.record)
    cache = returned_cache(result) if hasattr(result, "get") else given_cache(kwargs)
    if phase.columns is not None and cache is not None:
        cross_cache.note_columns(hooks.adapter, cache, phase.columns)
