"""The feature call under way in a thread: the tower's blocks ask for it, since their hooks are not told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from vtokens.adapters import Adapter
from vtokens.engine.attention.tap import AttentionCall
from vtokens.engine.context import here
from vtokens.engine.plan import Plan
from vtokens.engine.state.merging import Merging
from vtokens.engine.state.tower_run import TowerRun
from vtokens.strategies.signals import Scored, Sensitivity

_WHOLE, _FEW = (torch.int32, torch.int64), 1 << 14
"""Of such dtypes and so few numbers are the grids and sizes of pictures."""


class TowerCall:
    """A feature call while the tower works.

    Attributes:
        adapter: the model's.
        plan: what runs for the caller.
        modality: "image" or "video".
        given: the arguments of the feature call.
        inputs: those that the tower works on, where a strategy shows it less; `given` elsewhere.
        tower: the one that works for it.
        scores: tower block, and how its attention is read -> float32 score chunks, in the order the tower worked.
        keys: tower block -> chunks (patches, H, d) of its keys, in that order.
        states: tower block -> chunks (patches, C) of what leaves it, in that order.
        sensitivities: signal -> float32 score chunks of the projector's rows, in the order it worked.
        later: what it is not shown, while it cannot be told yet; None elsewhere.
        columns: int64 (B, N), the rows that go on behind its embeddings; None if all do.
        masked: whether its rows are padded, where it is shown some of the tokens of its pictures.
        merging: what was merged so far, or not shown to it; None before the first tokens were seen.
        inside: the attention of the block under way; None where nothing is merged.
        noted: what strategies that merge noted of each of the tower's inputs (B, inputs), by name.
        after: (B, N, C), the merged tokens that leave the block under way; None where nothing is merged.
    """

    def __init__(self, adapter: Adapter, plan: Plan, modality: str, inputs: Mapping[str, Any]) -> None:
        self.adapter, self.plan, self.modality, self.given, self.inputs = adapter, plan, modality, inputs, inputs
        self.tower = adapter.towers[modality]
        self.scores: dict[Scored, list[Tensor]] = {}
        self.keys: dict[int, list[Tensor]] = {}
        self.states: dict[int, list[Tensor]] = {}
        self.masked = False
        self.later: Merging | None = None
        self.columns: Tensor | None = None
        self.sensitivities: dict[Sensitivity, list[Tensor]] = {}
        self.merging: Merging | None = None
        self.inside: AttentionCall | None = None
        self.noted: dict[str, Tensor] = {}
        self.after: Tensor | None = None

    def over(self) -> TowerRun:
        """What is known of the call when it is over."""
        seen = None if self.inputs is self.given else _read(self.inputs)
        first = 0 if self.merging is None else self.merging.protect
        noted = {name: part[:, first:].flatten() for name, part in self.noted.items()}
        return TowerRun(
            self.adapter, self.modality, _read(self.given), self.scores, self.merging, self.keys, seen=seen,
            noted=noted, sensitivities=self.sensitivities, states=self.states,
        )  # fmt: skip


def _read(inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """The arguments of a feature call, sizes and counts on the host: who reads them later waits for no device."""

    def sizes(value: Any) -> bool:
        return isinstance(value, Tensor) and value.dtype in _WHOLE and value.numel() <= _FEW

    return {name: value.cpu() if sizes(value) else value for name, value in inputs.items()}


@contextmanager
def during(call: TowerCall | None) -> Iterator[None]:
    """Make a feature call the one under way in this thread; None: let hooks think that there is none."""
    thread = here()
    before, thread.tower = thread.tower, call
    try:
        yield
    finally:
        thread.tower = before


def call_of(adapter: Adapter) -> TowerCall | None:
    """The feature call of this model that is under way in this thread."""
    call = here().tower
    return call if isinstance(call, TowerCall) and call.adapter is adapter else None
