"""What a pass with pictures did, for `handle.report()`, and whose passes a handle tells of."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from vtokens.core.layout import Layout
from vtokens.engine.context import Thread, here
from vtokens.engine.state.view import View
from vtokens.strategies.base import Strategy


@dataclass
class Record:
    """What a pass with pictures did; tensors stay on their device until `handle.report()` is asked.

    Attributes:
        layout, length, depth, itemsize: what was fed, to how many decoder layers, and the bytes of its numbers.
        views: decoder layer -> what it saw, where that is not all that was fed.
        attended: decoder layer -> positions its attention worked on, where merged tokens stood at several.
        computed: decoder layer -> positions that it computed of each row, where visual tokens passed through it as they
            were.
        copies: int64 (B, N), equal numbers at fed positions that hold one merged feature; None if nothing was merged.
        times: spent selecting.
        metrics: figures (B,) that strategies reported, one entry a layer.
        reduced: tokens of each picture before and after a strategy dropped some.
        negative_length: positions of the negative prompt, padding included; None if there is none.
        negative: what its prefill did; None if it brought no pictures.
        text: positions of the sequence, where visual tokens stand outside of it; layout, length and depth are then
            those of the visual tokens, and of the layers that attend to them. None where they stand in it.
    """

    layout: Layout
    length: int
    depth: int
    itemsize: int
    views: dict[int, View] = field(default_factory=dict)
    attended: dict[int, int] = field(default_factory=dict)
    computed: dict[int, tuple[int, ...]] = field(default_factory=dict)
    copies: Tensor | None = None
    times: list[Any] = field(default_factory=list)
    metrics: list[tuple[Strategy, Mapping[str, Tensor]]] = field(default_factory=list)
    reduced: list[tuple[Strategy, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    negative_length: int | None = None
    negative: Record | None = None
    text: int | None = None

    @property
    def widths(self) -> list[int]:
        """Columns that each decoder layer saw."""
        views = map(self.views.get, range(self.depth))
        return [self.length if view is None else view.index.shape[1] for view in views]

    @property
    def worked(self) -> list[int]:
        """Positions that the attention of each decoder layer worked on."""
        return [self.attended.get(index, width) for index, width in enumerate(self.widths)]

    @contextmanager
    def selecting(self, device: torch.device) -> Iterator[None]:
        """Time a selection: by the clock on a CPU, by events (no synchronisation) on a GPU."""
        if device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            yield
            end.record()
            self.times.append((start, end))
        else:
            begin = time.perf_counter()
            yield
            self.times.append(time.perf_counter() - begin)

    def seconds(self) -> float:
        """Time spent selecting."""
        total = 0.0
        for span in self.times:
            if isinstance(span, float):
                total += span
            else:
                span[1].synchronize()
                total += span[0].elapsed_time(span[1]) / 1e3
        return total


class Records:
    """The last pass with pictures that each thread ran under an attachment."""

    def __init__(self) -> None:
        self._of: WeakKeyDictionary[Thread, Record] = WeakKeyDictionary()
        self._latest: tuple[int, Record] | None = None

    def __reduce__(self) -> tuple[type[Records], tuple[()]]:
        return Records, ()  # a copy has run no pass yet

    def note(self, record: Record) -> None:
        """Take a pass of the calling thread."""
        self._of[here()] = record
        self._latest = (here().begun, record)

    def mine(self) -> Record | None:
        """The calling thread's last pass, or that of a thread that was started since; None if there is none.

        A streamer generates in a thread of its own, and the caller wants to see that thread's pass. Threads that work
        beside each other do not see each other's passes. A thread that has run none sees the latest of any thread.
        """
        own, latest = self._of.get(here()), self._latest
        if latest is None:
            return None
        if own is None:
            return latest[1]
        if latest[0] > here().last:
            # From now on it is this thread's own: its next call, if without pictures, must not bring back an older one.
            own = self._of[here()] = latest[1]
        return own
