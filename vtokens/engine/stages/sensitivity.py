"""How far features move where the projector's input is pushed, measured when a feature call runs the projector."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import normalize

from vtokens.adapters import Adapter
from vtokens.engine.stages.tower_call import call_of, during
from vtokens.strategies.signals import Sensitivity

_ROOM = 1 << 24
"""Most features of pushed rows held at once, in elements: 64 MiB."""


def on_projector(adapter: Adapter, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
    """A hook: what a feature call gives the projector is pushed, for each signal that asks."""
    call = call_of(adapter)
    if call is None:
        return
    with during(None):  # or hooks on the projector would take the pushed rows for pictures
        for signal in call.plan.sensitivities:
            scores = moved(module, args[0], signal)
            if call.tower.expands and call.merging is not None and call.merging.begun:
                scores = call.merging.expand(scores.view(len(args[0]), -1, 1))
            call.sensitivities.setdefault(signal, []).append(scores.flatten())


@torch.no_grad()
def moved(module: nn.Module, rows: Tensor, signal: Sensitivity) -> Tensor:
    """float32 (rows of the output,): the mean over directions u of |P(x + h u) - P(x - h u)| / 2h.

    Args:
        module: P.
        rows: x, (..., C), whose first dimension is one of things that P treats one by one.
        signal: how many u, and h.
    """
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    wide = {name: part.float() if part.is_floating_point() else part for name, part in state.items()}
    rows = rows.detach().float()
    pushes = torch.randn(signal.directions, rows.shape[-1], generator=torch.Generator().manual_seed(signal.seed))
    pushes = signal.step * normalize(pushes, dim=-1).to(rows.device)
    total, held = rows.new_zeros(()), 1
    with torch.autocast(rows.device.type, enabled=False):
        while len(pushes):
            part, pushes = pushes[:held], pushes[held:]
            push = part.view(len(part), *[1] * (rows.dim() - 1), -1)
            both = functional_call(module, wide, (torch.cat([rows + push, rows - push]).flatten(0, 1),))
            ahead, back = both.reshape(2, len(part), -1, both.shape[-1])
            total = total + (ahead - back).norm(dim=-1).sum(0)
            held = max(1, _ROOM // (2 * ahead[0].numel()))  # after the first, which tells how much a push takes
    return total / (2 * signal.step * signal.directions)
