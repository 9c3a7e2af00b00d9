"""A report, made from what a pass left on the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vtokens.core.costs import kv_bytes, prefill_flops
from vtokens.core.kept import KeptPicture, SampleReport
from vtokens.core.layer_costs import cross_layer_flops, passed_flops
from vtokens.engine.record import Record
from vtokens.engine.report import Contribution, NegativeReport, Report
from vtokens.engine.state.view import View
from vtokens.strategies import Strategy, format_spec


def samples_of(record: Record) -> tuple[SampleReport, ...]:
    """What decoder layers saw of each row, read off the device."""
    layout, batch = record.layout, record.layout.visual.shape[0]
    valid, image, cell, visual = (t.cpu().numpy() for t in (layout.valid, layout.image, layout.cell, layout.visual))
    copies = None if record.copies is None else record.copies.cpu().numpy()
    everything = [np.flatnonzero(valid[row]) for row in range(batch)]
    states: dict[View | None, list[np.ndarray]] = {None: everything}
    views = [record.views.get(index) for index in range(record.depth)]
    for view in views:
        if view is not None and view not in states:
            at = view.index.cpu().numpy()
            real = np.ones_like(at, dtype=bool) if view.real is None else view.real.cpu().numpy()
            states[view] = [at[row][real[row] & valid[row][at[row]]] for row in range(batch)]
    samples = []
    for row in range(batch):
        seen = {view: positions[row] for view, positions in states.items()}
        pictures = []
        for number in (n for n, owner in enumerate(layout.owner) if owner == row):
            cells = {v: cell[row][p[(image[row][p] == number) & visual[row][p]]] for v, p in seen.items()}
            merged = None if copies is None else _merged(copies[row], cell[row], image[row] == number)
            pictures.append(KeptPicture(layout.pictures[number], tuple(cells[view] for view in views), merged))
        tokens = {view: int(visual[row][positions].sum()) for view, positions in seen.items()}
        samples.append(
            SampleReport(tuple(tokens[view] for view in views), tuple(seen[view] for view in views), tuple(pictures))
        )  # fmt: skip
    return tuple(samples)


def make_report(strategies: Sequence[Strategy], record: Record, config: Any, choices: tuple[str, ...] = ()) -> Report:
    """Read a record off the device; `config` is the decoder's, `choices` why some strategies were chosen."""
    batch, widths, full = record.layout.visual.shape[0], record.widths, [record.length] * record.depth
    samples = samples_of(record)
    if record.text is None:
        cached, cached_full = widths, full
        flops = prefill_flops(config, widths, record.worked)
        flops -= sum(
            passed_flops(config, widths[index] - max(rows), widths[index], index)
            for index, rows in record.computed.items()
        )
        flops_full = prefill_flops(config, full)
    else:  # the other layers attend to the sequence alone
        others = [record.text] * (config.num_hidden_layers - record.depth)
        cached, cached_full = [*others, *widths], [*others, *full]
        flops, flops_full = (
            prefill_flops(config, others) + sum(cross_layer_flops(config, record.text, width) for width in keys)
            for keys in (widths, full)
        )
    return Report(
        format_spec(strategies),
        samples,
        batch * flops,
        batch * flops_full,
        batch * kv_bytes(config, cached, record.itemsize),
        batch * kv_bytes(config, cached_full, record.itemsize),
        record.seconds(),
        tuple(_contribution(strategy, record, batch) for strategy in strategies),
        _negative(record, config, batch),
        choices,
    )


def _negative(record: Record, config: Any, batch: int) -> NegativeReport | None:
    if record.negative_length is None:
        return None
    full, negative = [record.negative_length] * record.depth, record.negative
    widths, worked, tokens = full, full, 0
    if negative is not None:
        widths, worked = negative.widths, negative.worked
        seen = (negative.views.get(index) for index in range(record.depth))
        tokens = sum(sum((negative.layout if view is None else view.layout).counts) for view in seen)
    return NegativeReport(
        sum(widths) / record.depth,
        tokens / record.depth / batch,
        batch * prefill_flops(config, widths, worked),
        batch * kv_bytes(config, widths, record.itemsize),
    )


def _merged(copies: np.ndarray, cell: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """int64 (len(picture),): the first position of a picture with the same number, itself where that is 0."""
    numbers = np.zeros(int(inside.sum()), dtype=np.int64)
    numbers[cell[inside]] = copies[inside]
    _, first, which = np.unique(numbers, return_index=True, return_inverse=True)
    return np.where(numbers > 0, first[which], np.arange(len(numbers)))


def _contribution(strategy: Strategy, record: Record, batch: int) -> Contribution:
    acted = [(before, after) for who, before, after in record.reduced if who is strategy]
    dropped = sum(sum(before) - sum(after) for before, after in acted)
    tokens = None
    if acted:
        before = sum(acted[0][0])
        tokens = (before / batch, (before - dropped) / batch)
    found: dict[str, list[Tensor]] = {}
    for figures in (figures for who, figures in record.metrics if who is strategy):
        for name, values in figures.items():
            found.setdefault(name, []).append(values.detach().float().cpu())
    return Contribution(
        format_spec([strategy]), tokens, {name: torch.cat(values).mean().item() for name, values in found.items()}
    )
