"""One sequence of a pass on its way through the decoder layers.

A pass has one lane for the prompt, and another for the negative prompt of a contrast while both are given the same
tokens. Stages write to a lane, one at a time: what it saw last is what the next layer sees.

    prompt  -> [prompt stage] -> layer 0 -> layer 1 -> [layer stage] -> layer 2 ...
    view       None / dropped                           dropped more
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from vtokens.adapters import Adapter
from vtokens.adapters.decoder import reads_positions
from vtokens.core.layout import Layout
from vtokens.engine.checks.window import cutting_windows
from vtokens.engine.plan import Plan
from vtokens.engine.state.both_ways import BothWays
from vtokens.engine.state.computed import Computed
from vtokens.engine.state.folds import Fold
from vtokens.engine.state.numbering import Numbering
from vtokens.engine.state.pictures import Pictures
from vtokens.engine.state.prompt_end import at_end
from vtokens.engine.state.view import View
from vtokens.strategies.base import Strategy
from vtokens.strategies.selection import Selection
from vtokens.strategies.views.heads import Memory

T = TypeVar("T")


class Lane:
    """One sequence of a pass.

    Attributes:
        adapter: the model's.
        plan: which strategy acts where in this lane.
        length: positions fed in this pass, padding included.
        past: positions fed before, by the caller's count.
        padding: bool (B, past + length), False on padding; None if there is none.
        cache: what the pass appends to; None if nothing is cached.
        asked: trailing positions the caller wants logits of, if that tells where the prompt ends; else 1.
        pictures: what it has because it brings pictures; None if it brings none.
        view: what the layer under way sees of what was fed; None if all of it.
        entry: the view at the decoder's input.
        columns: int64 (B, W), those left of the decoder's input, to cut what the decoder made there; None if all are.
        hidden: (B, W, D), the states that entered the layer under way; at first those that were fed.
        final: (B, W, D), the states that leave the decoder, where a strategy asks what visual tokens predict.
        injection: what the engine adds to states behind the first layers; None if nothing.
        sizes: float32 (B, W), logarithms of how many tokens each column counts for; None if all count once.
        bias: float32 (B, W), what attention adds to scores for it, the logarithms or a share of them; None as `sizes`.
        numbering: how columns are numbered, where gaps were closed; None where none was.
        angles: (cos, sin), each (B or 1, W, D), by which the layer under way turns the columns it sees, before it
            unmerges tokens; None before the first.
        mask: attention mask of the layer under way, where lanes share a pass; None elsewhere.
        views: decoder layer -> the view it had, where that is not None.
        adjusted: decoder layer -> the keyword arguments that it was given instead, None for those it had.
        folds: decoder layer -> how merged tokens are unmerged in its attention.
        notes: decoder layer -> what `attend` strategies note at it.
        early: decoder layer -> (B, R, D), states that entered it where logits are asked for, if a strategy reads them.
        early_columns: decoder layer -> int64 (B, R), the columns that those states are of.
        sent: decoder layer -> (B, R, H, D), head outputs of its attention that go past the layers to the last one.
        specs: what each decoder layer is.
        both_ways: which positions of this pass see what comes after them; None if none do.
        computed: decoder layer -> the columns that it computes, where others pass as they are.
        evicted: decoder layer -> which of its keys stay, by the cached ones and those of this pass.
        windows: decoder layer -> its sliding window, where that cuts into the sequence.
        reads_positions: whether layers compute with `position_ids`.
        aside: bool (B, N), positions that are no text, in a pass that brings no pictures; None if there are none.
    """

    def __init__(
        self,
        adapter: Adapter,
        plan: Plan,
        hidden: Tensor,
        past: int,
        padding: Tensor | None,
        cache: Any,
        asked: int = 1,
        pictures: Pictures | None = None,
        both_ways: BothWays | None = None,
    ) -> None:
        self.adapter, self.plan, self.length, self.past = adapter, plan, hidden.shape[1], past
        if pictures is not None and past == 0 and not pictures.layout.padded:
            padding = None  # a mask of ones: knowing so keeps the attention's fast path
        self.padding, self.cache, self.asked, self.pictures = padding, cache, asked, pictures
        self.view: View | None = None
        self.entry: View | None = None
        self.columns: Tensor | None = None
        self.hidden, self.mask, self.both_ways = hidden, None, both_ways
        self.final: Tensor | None = None
        self.injection = None if pictures is None else pictures.injection
        self.sizes: Tensor | None = None
        self.bias: Tensor | None = None
        self.numbering: Numbering | None = None
        self.angles: tuple[Tensor, Tensor] | None = None
        self.views: dict[int, View] = {}
        self.adjusted: dict[int, dict[str, Any] | None] = {}
        self.folds: dict[int, Fold] = {}
        self.notes: dict[int, Memory] = {}
        self.early: dict[int, Tensor] = {}
        self.early_columns: dict[int, Tensor] = {}
        self.sent: dict[int, Tensor] = {}
        self.computed: dict[int, Computed] = {}
        self.evicted: dict[int, Selection] = {}
        self.specs = adapter.specs
        self.windows = cutting_windows(self.specs, past + self.length)
        self.aside: Tensor | None = None
        self.reads_positions = reads_positions(adapter)
        self._memo: dict[Hashable, Any] = {}

    def both_ways_at(self, index: int) -> BothWays | None:
        """Which positions see what comes after them in decoder layer `index`; None if none do."""
        both_ways = self.both_ways
        if both_ways is None or (both_ways.windows and self.specs[index].window is None):
            return None
        return both_ways

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` returns, made once in this pass; layers that see the same share it by its key."""
        if key not in self._memo:
            self._memo[key] = make()
        found: T = self._memo[key]
        return found

    @property
    def layout(self) -> Layout | None:
        """The layout of what is seen now; None if the lane brings no pictures."""
        if self.view is not None:
            return self.view.layout
        return None if self.pictures is None else self.pictures.layout

    def layout_on(self, device: torch.device) -> Layout:
        """The layout of what is seen now, on a device; only of a lane that brings pictures."""
        layout = self.layout
        if layout is None:
            raise RuntimeError("this lane brings no pictures")
        if layout.visual.device == device:
            return layout
        return self.once(("layout", self.view, device), lambda: layout.to(device))

    def log(self, strategy: Strategy, metrics: Mapping[str, Tensor]) -> None:
        """Note the figures (B,) of a strategy in the record, if the lane brings pictures and there are any."""
        if self.pictures is not None and metrics:
            self.pictures.record.metrics.append((strategy, metrics))

    def batch_rows(self, rows: Sequence[int] | None) -> list[int] | None:
        """The batch rows that run what is meant for some rows; beams and returned sequences stand beside each other.

        Args:
            rows: before beams repeat them; None if all.
        """
        if rows is None or self.plan.programs is None:
            return None
        copies = len(self.hidden) // len(self.plan.programs)
        return [row * copies + copy for row in sorted(rows) for copy in range(copies)]

    def seeing(self, view: View, hidden: Tensor) -> Lane:
        """The lane as another view sees it, with the states (B, W, D) of that view; signals are noted apart."""
        other = copy.copy(self)
        other.view, other.hidden = view, hidden
        if other.pictures is not None:
            other.pictures = copy.copy(other.pictures)
            other.pictures.observed, other.pictures.pending = {}, {}
        return other

    @property
    def shows(self) -> bool:
        """Whether any visual token of this pass is seen now."""
        layout = self.layout
        return layout is not None and any(layout.counts)

    def fed_before(self) -> Tensor | None:
        """bool (B, past), the padding mask over what was fed before this pass; None if there is none."""
        return None if self.padding is None or not self.past else self.padding[:, : self.past]

    def fed_now(self, view: View | None = None) -> Tensor | None:
        """bool (B, W), the padding mask over what a view sees of this pass; None if there is none."""
        mask = None if self.padding is None else self.padding[:, self.past :]
        return mask if view is None else view.mask(mask)

    def last_prompt(self, pictures: Pictures, device: torch.device) -> Tensor:
        """int64 (B, 1): where each sample's prompt ends, among the positions seen now."""
        valid = self.layout_on(device).valid.bool()
        return at_end(pictures.ends, None if self.view is None else self.view.index, valid)
