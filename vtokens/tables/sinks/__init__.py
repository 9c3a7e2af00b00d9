"""Which hidden dimensions give attention sinks away, decoder by decoder."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vtokens.core.on_device import on_device
from vtokens.core.writing import write_json
from vtokens.tables import base

SCHEMA = 1


@dataclass(frozen=True)
class Sinks:
    """How to recognise sink tokens by their hidden state.

    Attributes:
        decoder: the decoder they hold for, as in `Facts.decoder`.
        dims: dimensions in which sink tokens are huge; none if the decoder has no sinks.
        tau: how many times the root mean square of a state is huge.
        source: where the dimensions come from.
    """

    decoder: str
    dims: tuple[int, ...]
    tau: float
    source: str

    def phi(self, hidden: Tensor) -> Tensor:
        """float32 (B, W): the largest of the dimensions, over the root mean square of the state (B, W, D)."""
        dims = on_device(self.dims, hidden.device, dtype=torch.long)
        # Squares of half precision overflow long before the activations do.
        rms = hidden.float().square().mean(-1).add(1e-6).sqrt()
        return hidden.index_select(-1, dims).float().abs().amax(-1) / rms

    def find(self, hidden: Tensor) -> Tensor:
        """bool (B, W): the sink tokens."""
        return self.phi(hidden) > self.tau

    def save(self, path: str | Path) -> None:
        """Write a file that `read` reads."""
        write_json(path, {"schema": SCHEMA, **asdict(self)})


def read(path: str | Path) -> Sinks:
    """Sinks from a JSON file.

    Raises:
        ImportError: pydantic is missing.
        ValueError: no such file, or not what `vtokens calibrate var` writes.
    """
    return base.read(path, "sinks", SCHEMA, _parse, "sink dimensions", "`vtokens calibrate var MODEL --out FILE`")


def known(decoder: str) -> Sinks | None:
    """The shipped sinks of a decoder."""
    return _table().get(decoder)


@cache
def _table() -> dict[str, Sinks]:
    return {sinks.decoder: sinks for sinks in base.shipped(__name__, _parse)}


def _parse(data: dict[str, Any]) -> Sinks:
    return Sinks(data["decoder"], tuple(data["dims"]), float(data["tau"]), data["source"])
