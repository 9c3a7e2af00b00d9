"""Tiles of one image are one picture, where a feature call is not told which tiles those are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vtokens.adapters import Adapter
from vtokens.engine.state.tower_run import TowerRun


def joined(
    adapter: Adapter, runs: Sequence[TowerRun], placeholders: Mapping[str, Tensor], inputs: Mapping[str, Any]
) -> list[TowerRun]:
    """The runs of a call, with pictures as the prompt tells them.

    Args:
        adapter: says which positions tiles of one image stand in; if it says nothing, runs are left as they are.
        runs: what the tower saw.
        placeholders: modality -> bool (B, N); rows may be repeated (beams) where features are not.
        inputs: what the multimodal module is given.
    """
    out = []
    for run in runs:
        places = placeholders[run.modality]
        stretches = adapter.stretches(places, inputs)
        out.append(run if stretches is None else replace(run, joins=_joins(run, stretches.to(places.device), places)))
    return out


def _joins(run: TowerRun, stretches: Tensor, places: Tensor) -> tuple[int, ...]:
    """How many tiles each picture has; one each where stretches do not end with tiles."""
    inside, here = torch.stack((stretches, places)).cpu().numpy()
    lengths = [len(tile) for tile in run.tiles]
    copies = max(1, int(here.sum()) // sum(lengths))
    inside, here = inside[::copies], here[::copies]
    begins = inside & ~np.pad(inside, ((0, 0), (1, 0)))[:, :-1]
    sizes = np.bincount(begins.cumsum()[here.ravel()])
    ends, bounds = np.cumsum(lengths), np.cumsum(sizes[sizes > 0])
    if not np.isin(bounds, ends).all() or bounds[-1] != ends[-1]:
        return ()
    return tuple(np.bincount(np.searchsorted(bounds, ends)).tolist())
