"""Cuts of a sequence inside of a genuine decoder: from some layers on it holds fewer rows, whose numbers are given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vtokens.adapters import Adapter
from vtokens.adapters.decoder import reads_positions
from vtokens.engine.attention.masks import layer_mask
from vtokens.engine.attention.renumber import of_angles
from vtokens.engine.state.view import gather


@dataclass(frozen=True)
class Cut:
    """What is left of a sequence from some decoder layer on.

    Attributes:
        rows: int64 (B, W), the rows of what enters that layer.
        columns: int64 (B, W), the same as columns of the sequence that was fed.
        real: bool (B, W), False on padding; None if there is none.
    """

    rows: Tensor
    columns: Tensor
    real: Tensor | None


class Cuts:
    """Hooks that cut a sequence before given layers of a genuine decoder, whose own `forward` does all the rest.

    A cut adds a gather of states and rotary angles to the pass that reads the prompt, and a mask where the model itself
    would have made one of a batch like this.
    """

    def __init__(self, adapter: Adapter, cuts: dict[int, Cut]) -> None:
        self._adapter, self._cuts = adapter, cuts
        self._passes, self._cut = 0, next(iter(cuts.values()))
        self._made: dict[Any, Any] = {}

    @contextmanager
    def on(self) -> Iterator[None]:
        """The hooks stand inside of the block, which holds one call of `generate`."""
        first, self._passes = min(self._cuts), 0
        hooks = [
            layer.register_forward_pre_hook(partial(self._before, number), with_kwargs=True)
            for number, layer in enumerate(self._adapter.layers)
            if number >= first
        ]
        try:
            yield
        finally:
            self._made.clear()
            for hook in hooks:
                hook.remove()

    def _before(self, number: int, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if number == min(self._cuts):
            self._passes += 1
            self._made.clear()
        hidden, *others = args
        if number in self._cuts:
            self._cut = self._cuts[number]
        if self._passes == 1:
            if number in self._cuts:
                hidden = gather(hidden, self._cut.rows, 1)
            kwargs = {**kwargs, **self._places(number, kwargs)}
        return (hidden, *others), {**kwargs, "attention_mask": self._mask(number, hidden)}

    def _places(self, number: int, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Rotary angles of the prompt's columns that are left, and their positions if the layer computes with them."""
        cut, angles = self._cut, kwargs.get("position_embeddings")
        positions: Any = kwargs.get("position_ids")
        if angles is not None:
            key = ("angles", id(cut), self._adapter.specs[number].rope)
            angles = self._once(key, lambda: of_angles(lambda one: gather(one, cut.columns, one.dim() - 2), angles))
        reads = positions is not None and reads_positions(self._adapter)
        return {"position_embeddings": angles, "position_ids": gather(positions, cut.columns, 1) if reads else None}

    def _mask(self, number: int, hidden: Tensor) -> Any:
        cut, linear = self._cut, not self._adapter.specs[number].attends
        width, steps = cut.columns.shape[1], self._passes - 1

        def make() -> Any:
            allowed = cut.real
            if allowed is not None and steps:
                allowed = torch.cat([allowed, allowed.new_ones(len(allowed), steps)], 1)
            if linear:
                return None if steps else allowed  # a state is told of padding while it reads the prompt
            past = width + steps - 1 if steps else 0
            return layer_mask(self._adapter.language_model.config, hidden, past, allowed)

        return self._once(("mask", id(cut), linear), make)

    def _once(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]
