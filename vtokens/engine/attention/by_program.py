"""Programs per row: an attention call is cut to the rows of each program, and put together again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from itertools import groupby
from typing import Any, TypeVar

import torch
from torch import Tensor

from vtokens.core.layout import Layout
from vtokens.engine.program import Acting
from vtokens.strategies.views.heads import Heads, Memory, Rows
from vtokens.strategies.views.keys import Keys
from vtokens.strategies.views.places import Places
from vtokens.strategies.views.states import States

V = TypeVar("V", Heads, Keys, States)

BatchRows = Callable[[Sequence[int] | None], list[int] | None]
"""From the rows of a program to those of the batch, which beams repeat; None stands for all (`Lane.batch_rows`)."""


def by_program(
    heads: Heads, strategies: Sequence[Acting], batch_rows: BatchRows
) -> Iterator[tuple[list[int] | None, Heads, list[Acting]]]:
    """The strategies of a call, one program after the other: its rows, what they see, and who acts on them.

    What they made of their rows is in `heads` before the next program comes.
    """
    for rows, some in groupby(strategies, key=lambda acting: acting.rows):
        own = batch_rows(rows)
        part = heads if own is None else _heads_of(heads, own)
        yield own, part, list(some)
        if own is not None:
            _take_over(heads, part, own)


def of_rows(view: V, rows: Sequence[int], **others: Any) -> V:
    """What the strategies of some rows see of a stage.

    Args:
        view: what they see of all rows.
        rows: of the batch.
        others: fields that are not cut by rows.
    """
    values = {field.name: getattr(view, field.name) for field in fields(view)}
    device = next(value.device for value in values.values() if isinstance(value, Tensor))
    index = torch.tensor(rows, device=device)

    def some(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value[index.to(value.device)]
        if isinstance(value, Memory):
            return value.map(some)
        if isinstance(value, Rows):
            return Rows(some(value.index), some(value.real), value.whole)
        return value.rows(rows) if isinstance(value, Layout | Places) else value

    return replace(view, **{name: some(value) for name, value in values.items() if name not in others}, **others)


def _heads_of(heads: Heads, rows: Sequence[int]) -> Heads:
    part = of_rows(
        heads, rows, metrics={}, spans=tuple(heads.spans[row] for row in rows) if heads.spans else (),
        _gain=None, _output=None, _replaced=False,
    )  # fmt: skip
    part._compute = lambda: heads.output[torch.tensor(rows, device=heads.query.device)]
    return part


def _take_over(heads: Heads, part: Heads, rows: Sequence[int]) -> None:
    """Put what `part` made of some rows, and noted of them, in its place among all rows."""
    index = torch.tensor(rows, device=heads.query.device)
    heads.output = heads.output.index_copy(0, index, part.result.to(heads.output.dtype))
    if part.sent is not None:
        sent = part.sent.new_zeros(len(heads.query), *part.sent.shape[1:]) if heads.sent is None else heads.sent
        heads.sent = sent.index_copy(0, index, part.sent)
    take_over_notes(heads.noted, part.noted, rows, len(heads.query))


def take_over_notes(noted: Memory, part: Memory, rows: Sequence[int], batch: int) -> None:
    """Put what was noted of some rows, of `batch`, in its place among all rows."""
    for name, (values, fill) in part.keys.items():
        index = torch.tensor(rows, device=values.device)
        there = noted.keys[name][0] if name in noted.keys else values.new_full((batch, *values.shape[1:]), fill)
        noted.keys[name] = (there.index_copy(0, index, values), fill)
    for name, values in part.samples.items():
        index = torch.tensor(rows, device=values.device)
        there = noted.samples.get(name, values.new_zeros(batch, *values.shape[1:]))
        noted.samples[name] = there.index_copy(0, index, values)
