"""One attention call for the rows of a batch that run a program, and back: programs per row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby

import torch
from torch import Tensor

from vtokens.engine.plan import Acting
from vtokens.strategies.views.heads import Heads, Memory, Rows

Share = Callable[[Sequence[int] | None], list[int] | None]
"""From the rows of a program to those of the batch, which beams repeat; None stands for all (`Lane.share`)."""


def shares(
    heads: Heads, strategies: Sequence[Acting], share: Share
) -> Iterator[tuple[list[int] | None, Heads, list[Acting]]]:
    """The strategies of a call, one program after the other: its rows, what they see, and who acts on them.

    What they made of their rows is in `heads` before the next program comes.
    """
    for rows, some in groupby(strategies, key=lambda acting: acting.rows):
        own = share(rows)
        part = heads if own is None else of_rows(heads, own)
        yield own, part, list(some)
        if own is not None:
            take_over(heads, part, own)


def of_rows(heads: Heads, rows: Sequence[int]) -> Heads:
    """What the strategies of some rows see."""
    index = torch.tensor(rows, device=heads.query.device)

    def some(part: Tensor) -> Tensor:
        return part[index.to(part.device)]

    def places(given: Rows) -> Rows:
        return Rows(some(given.index), None if given.real is None else some(given.real), given.whole)

    return replace(
        heads,
        query=some(heads.query),
        key=some(heads.key),
        value=some(heads.value),
        hidden=some(heads.hidden),
        valid=None if heads.valid is None else some(heads.valid),
        answers=places(heads.answers),
        last=places(heads.last),
        _memory=heads._memory.map(some),
        _compute=lambda: some(heads.output),
        noted=heads.noted.map(some),
        spans=tuple(heads.spans[row] for row in rows) if heads.spans else (),
        fed=None if heads.fed is None else some(heads.fed),
        metrics={},
        _gain=None,
        _output=None,
        _replaced=False,
    )


def take_over(heads: Heads, part: Heads, rows: Sequence[int]) -> None:
    """Put what `part` made of some rows, and noted of them, in its place among all rows."""
    index = torch.tensor(rows, device=heads.query.device)
    heads.output = heads.output.index_copy(0, index, part.result.to(heads.output.dtype))
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
