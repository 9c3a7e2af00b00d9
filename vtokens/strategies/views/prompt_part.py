"""The prompts of some samples cut out of one attention call, so that patterns see each as it would be alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vtokens.core.on_device import on_device
from vtokens.strategies.views.heads import Heads, Rows, Span
from vtokens.tables.patterns.index import Scene


@dataclass(frozen=True)
class Part:
    """Some samples of an attention call, all with one span.

    Attributes:
        query: (b, H, M, D), the rows of their prompts.
        key, value: (b, H_kv, N, D), what was cached before, and theirs.
        visual: bool (b, N).
        valid: bool (b, N), False on padding; None if there is none.
        scaling: the factor on the products.
        strides: of their pictures.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    visual: Tensor
    valid: Tensor | None
    scaling: float
    strides: tuple[int, ...]

    def scene(self, block: tuple[int, int]) -> Scene:
        """As patterns see it, in tiles of `block`."""
        return Scene(self.query, self.key, self.scaling, self.visual, self.valid, self.strides, block)


def cut(heads: Heads, rows: Sequence[int], span: Span) -> Part:
    """The prompts of the samples `rows`, without the padding around them and answers behind them; no copy if it can."""
    past = heads.past

    def own(values: Tensor, dim: int) -> Tensor:
        return _samples(values, rows).narrow(dim, span.first, span.end - span.first)

    def seen(values: Tensor, dim: int) -> Tensor:
        values = _samples(values, rows)
        if not past or not span.first:
            return values.narrow(dim, span.first, past + span.end - span.first)
        # What was cached stays whole: its padding is in `valid`.
        after = values.narrow(dim, past + span.first, span.end - span.first)
        return torch.cat([values.narrow(dim, 0, past), after], dim)

    valid = None if heads.valid is None else seen(heads.valid, 1)
    return Part(
        own(heads.query, 2), seen(heads.key, 2), seen(heads.value, 2), seen(heads.visual, 1), valid, heads.scaling,
        span.strides,
    )  # fmt: skip


def _samples(values: Tensor, rows: Sequence[int]) -> Tensor:
    if len(rows) == len(values):
        return values
    return values.narrow(0, rows[0], 1) if len(rows) == 1 else values[list(rows)]


def answers(heads: Heads) -> None:
    """Compute dense attention of answers that are fed behind their prompts, as it is while they are written."""
    spans = heads.spans
    most = max(span.stop - span.end for span in spans)
    if not most:
        return
    device = heads.query.device
    ends = on_device([[span.end, span.stop] for span in spans], device)
    index = ends[:, :1] + torch.arange(most, device=device)
    # Empty slots must not point at a row that another one writes: not at the first, as a prompt has at least one.
    real = index < ends[:, 1:]
    rows = Rows(torch.where(real, index, 0), real)
    group = torch.zeros(len(heads.key), heads.key.shape[2], dtype=torch.long, device=device)
    heads.replace(rows, heads.grouped(group, 1, rows)[0][0])
