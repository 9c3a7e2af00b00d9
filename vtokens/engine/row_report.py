"""What a pass did to each row of a batch, counted as if the row had run by itself: padding costs nobody anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vtokens.core.costs import prefill_flops
from vtokens.core.kept import SampleReport
from vtokens.core.layer_costs import cross_layer_flops, passed_flops
from vtokens.engine.make_report import samples_of
from vtokens.engine.record import Record

_MOST = 4096  # lengths whose operations are remembered


@dataclass(frozen=True)
class RowReport:
    """One row of the last prefill.

    Attributes:
        sample: what decoder layers saw of it, and of each of its pictures.
        length: positions of its prompt, placeholders among them, padding left out.
        fed: positions that a decoder layer saw, averaged over the layers; all of the prompt where visual tokens stand
            outside.
        flops, flops_full: decoder FLOPs of its prefill, as run and unpruned (`vtokens.core.costs.prefill_flops`); those
            of a negative prompt are not among them.
    """

    sample: SampleReport
    length: int
    fed: float
    flops: int
    flops_full: int


class Costs:
    """`prefill_flops` of one decoder, which counts the same lengths once: asking a config is slow.

    A copy starts with nothing counted.
    """

    def __init__(self) -> None:
        self._known: dict[Any, int] = {}

    def __reduce__(self) -> tuple[type[Costs], tuple[()]]:
        return Costs, ()

    def __call__(self, config: Any, lengths: Sequence[int], attended: Sequence[int] | None = None) -> int:
        """As `prefill_flops`, of the one config."""
        key = tuple(lengths), None if attended is None else tuple(attended)
        if key not in self._known:
            if len(self._known) >= _MOST:
                self._known.clear()
            self._known[key] = prefill_flops(config, lengths, attended)
        return self._known[key]


def row_reports(
    record: Record | None, config: Any, lengths: Sequence[int], costs: Costs | None = None
) -> tuple[RowReport, ...]:
    """Read a record off the device, row by row.

    Args:
        record: of the pass; None of one that brought no pictures.
        config: the decoder's.
        lengths: positions of each row's prompt, padding left out.
        costs: of this decoder, if they are counted again and again.
    """
    costs = Costs() if costs is None else costs
    if record is None:
        return tuple(_text(config, length, costs) for length in lengths)
    samples = samples_of(record)
    return tuple(_row(record, config, row, samples[row], length, costs) for row, length in enumerate(lengths))


def _text(config: Any, length: int, costs: Costs) -> RowReport:
    depth = config.num_hidden_layers
    flops = costs(config, [length] * depth)
    sample = SampleReport((0,) * depth, (np.arange(length),) * depth, ())
    return RowReport(sample, length, float(length), flops, flops)


def _row(record: Record, config: Any, row: int, sample: SampleReport, length: int, costs: Costs) -> RowReport:
    widths = [len(positions) for positions in sample.positions]
    if record.text is not None:  # visual tokens stand outside the sequence, and the other layers attend to it alone
        others = costs(config, [length] * (config.num_hidden_layers - record.depth))
        flops, flops_full = (
            others + sum(cross_layer_flops(config, length, keys) for keys in seen)
            for seen in (widths, [record.length] * record.depth)
        )
        return RowReport(sample, length, float(length), flops, flops_full)
    padding = record.length - length
    worked = [
        record.attended[index] - padding if index in record.attended else width for index, width in enumerate(widths)
    ]
    flops = costs(config, widths, worked)
    for index, rows in record.computed.items():
        flops -= passed_flops(config, widths[index] - rows[row], widths[index], index)
    full = costs(config, [length] * record.depth)
    return RowReport(sample, length, sum(widths) / len(widths), flops, full)
