"""What strategies note about keys and samples in one pass and read in later ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vtokens.core.moved import Member

VISUAL = "visual"
"""What the engine notes about each key: whether it holds a visual token."""


class Logging:
    """Part of what a strategy sees: it logs figures for the report."""

    metrics: dict[str, Tensor]
    tell, told = Member("log"), Member("metrics")

    def log(self, name: str, values: Tensor) -> None:
        """Log a figure for the report: float (B,), averaged there over samples and layers."""
        self.metrics[name] = values


@dataclass
class Memory:
    """What strategies noted at a layer. It lives in that layer's cache and follows its samples and positions.

    Attributes:
        keys: name -> (values (B, P), what holds for keys beyond P).
        samples: name -> (B, ...).
    """

    keys: dict[str, tuple[Tensor, int]] = field(default_factory=dict)
    samples: dict[str, Tensor] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.keys or self.samples)

    def map(self, change: Callable[[Tensor], Tensor]) -> Memory:
        """The same of other samples; `change` acts on the batch dimension."""
        keys = {name: (change(values), fill) for name, (values, fill) in self.keys.items()}
        return Memory(keys, {name: change(values) for name, values in self.samples.items()})

    def marks(self, name: str, length: int) -> Tensor:
        """(B, length): the values noted for each key."""
        values, fill = self.keys[name]
        missing = length - values.shape[1]
        return torch.nn.functional.pad(values, (0, missing), value=fill) if missing > 0 else values[:, :length]

    def cropped(self, count: int) -> Memory:
        """What is left of this where only the first `count` keys are; nothing if none of those is a picture's."""
        keys = {name: (values[:, :count], fill) for name, (values, fill) in self.keys.items()}
        if VISUAL in keys and not keys[VISUAL][0].any():
            return Memory()
        return Memory(keys, self.samples)

    def followed_by(self, new: Memory, past: int, length: int) -> Memory:
        """This, about the first `past` keys, and `new`, about the `length` keys after them."""
        keys = {}
        for name, (values, fill) in {**self.keys, **new.keys}.items():
            empty = values.new_full((len(values), 0), fill)
            parts = [
                Memory({name: memory.keys.get(name, (empty, fill))}).marks(name, size)
                for memory, size in ((self, past), (new, length))
            ]
            keys[name] = (torch.cat(parts, 1), fill)
        return Memory(keys, {**self.samples, **new.samples})


class Noting(Logging):
    """Part of what a strategy sees of one layer: it takes notes about samples, which the layer's cache keeps."""

    noted: Memory
    _memory: Memory

    def remember(self, name: str, values: Tensor) -> None:
        """Note `values` (B, ...) about each sample; later passes over the same cache find it here."""
        self.noted.samples[name] = values

    def recall(self, name: str, earlier: bool = False) -> Tensor | None:
        """What was noted about each sample in this layer, in this pass or before; None if nothing was.

        Args:
            earlier: only by passes before this one.
        """
        before = self._memory.samples.get(name)
        return before if earlier else self.noted.samples.get(name, before)
