"""What a call did: tokens per layer, positions kept, FLOPs, KV bytes, and what each strategy contributed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vtokens.core.costs import cross_layer_flops, kv_bytes, prefill_flops
from vtokens.core.kept import KeptPicture, SampleReport
from vtokens.core.moved import Member, renamed
from vtokens.engine.notebook import report_html
from vtokens.engine.record import Record
from vtokens.engine.state.view import View
from vtokens.strategies import Strategy, format_spec


@dataclass(frozen=True)
class Contribution:
    """What one strategy did.

    Attributes:
        strategy: as text.
        tokens: visual tokens per sample before and after it, summed over the times it dropped some; None if it never
            did.
        figures: what it tells of itself, averaged over samples and layers.
    """

    strategy: str
    tokens: tuple[float, float] | None
    figures: dict[str, float]

    def __str__(self) -> str:
        parts = [] if self.tokens is None else [f"{self.tokens[0]:.1f} to {self.tokens[1]:.1f} visual tokens"]
        parts += [f"{name.replace('_', ' ')} {value:.3g}" for name, value in self.figures.items()]
        return f"{self.strategy}: {', '.join(parts) or 'nothing to do'}"


@dataclass(frozen=True)
class NegativeReport:
    """What the negative prompt of a contrast was fed, beside the prefill; its tokens come in passes of twice the rows.

    Attributes:
        positions: its positions per decoder layer, averaged; padding included.
        visual_tokens: those of them that are visual tokens, per sample and layer.
        flops: decoder FLOPs of its prefill.
        kv_bytes: bytes of keys and values that it caches.
    """

    positions: float
    visual_tokens: float
    flops: int
    kv_bytes: int

    def __str__(self) -> str:
        return (
            f"negative prompt: {self.visual_tokens:.1f} visual tokens per layer on average; prefill "
            f"{self.flops / 1e9:.3g} GFLOPs more, KV cache {self.kv_bytes / 1e6:.3g} MB more"
        )


@dataclass(frozen=True)
class Report:
    """The last prefill of an attached model.

    Attributes:
        strategy: the strategies, as text.
        samples: one entry per row of the batch (beams count as rows).
        flops, flops_full: decoder FLOPs of the prefill, as run and unpruned (`vtokens.core.costs.prefill_flops`).
        kv_bytes, kv_bytes_full: bytes of keys and values that the prefill caches, as run and unpruned.
        select_seconds: time spent scoring and selecting.
        contributions: what each strategy did, in the written order.
        negative: what the negative prompt of a contrast cost beside all this; None without one.
    """

    strategy: str
    samples: tuple[SampleReport, ...]
    flops: int
    flops_full: int
    kv_bytes: int
    kv_bytes_full: int
    select_seconds: float
    contributions: tuple[Contribution, ...]
    negative: NegativeReport | None = None
    branch = Member("negative")

    @property
    def kv_bytes_saved(self) -> int:
        """Bytes of keys and values that were never cached."""
        return self.kv_bytes_full - self.kv_bytes

    def __repr__(self) -> str:
        tokens = sum(sample.average_tokens for sample in self.samples)
        return f"<Report of {self.strategy!r}: {tokens:.1f} visual tokens per layer in {len(self.samples)} sample(s)>"

    def _repr_html_(self) -> str:
        costs = [
            ("prefill, GFLOPs", f"{self.flops / 1e9:.3g}", f"{self.flops_full / 1e9:.3g}"),
            ("KV cache, MB", f"{self.kv_bytes / 1e6:.3g}", f"{self.kv_bytes_full / 1e6:.3g}"),
            ("selecting, ms", f"{1e3 * self.select_seconds:.2f}", ""),
        ]
        negative = [] if self.negative is None else [self.negative]
        return report_html(self.strategy, self.samples, costs, [*self.contributions, *negative])

    def __str__(self) -> str:
        tokens = [sample.average_tokens for sample in self.samples]
        full = [sum(kept.picture.tokens for kept in sample.pictures) for sample in self.samples]
        head = (
            f"{self.strategy}: {sum(tokens):.1f} of {sum(full)} visual tokens per layer on average "
            f"in {len(self.samples)} sample(s); prefill {self.flops / 1e9:.3g} of {self.flops_full / 1e9:.3g} GFLOPs, "
            f"KV cache {self.kv_bytes / 1e6:.3g} of {self.kv_bytes_full / 1e6:.3g} MB, "
            f"{1e3 * self.select_seconds:.2f} ms selecting"
        )
        listed = len(self.contributions) > 1 or any(part.figures for part in self.contributions)
        parts = [*(self.contributions if listed else ()), *([] if self.negative is None else [self.negative])]
        return "\n  ".join([head, *map(str, parts)])


def make_report(strategies: Sequence[Strategy], record: Record, config: Any) -> Report:
    """Read a record off the device; `config` is the decoder's."""
    layout, batch = record.layout, record.layout.visual.shape[0]
    valid, image, cell, visual = (t.cpu().numpy() for t in (layout.valid, layout.image, layout.cell, layout.visual))
    copies = None if record.copies is None else record.copies.cpu().numpy()
    everything = [np.flatnonzero(valid[row]) for row in range(batch)]
    states: dict[View | None, list[np.ndarray]] = {None: everything}
    views, widths = [], []
    for index in range(record.depth):
        view = record.views.get(index)
        views.append(view)
        widths.append(record.length if view is None else view.index.shape[1])
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
    full = [record.length] * record.depth
    if record.text is None:
        cached, cached_full = widths, full
        flops = prefill_flops(config, widths, [record.attended.get(i, width) for i, width in enumerate(widths)])
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
        tuple(samples),
        batch * flops,
        batch * flops_full,
        batch * kv_bytes(config, cached, record.itemsize),
        batch * kv_bytes(config, cached_full, record.itemsize),
        record.seconds(),
        tuple(_contribution(strategy, record, batch) for strategy in strategies),
        _negative(record, config, batch),
    )


def _negative(record: Record, config: Any, batch: int) -> NegativeReport | None:
    if record.negative is None:
        return None
    fed = record.negative
    views = [fed.views.get(index) for index in range(record.depth)]
    widths = [fed.length if view is None else view.index.shape[1] for view in views]
    attended = [fed.attended.get(index, width) for index, width in enumerate(widths)]
    tokens = [fed.tokens if view is None else sum(view.layout.counts) for view in views]
    return NegativeReport(
        sum(widths) / record.depth,
        sum(tokens) / record.depth / batch,
        batch * prefill_flops(config, widths, attended),
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


if not TYPE_CHECKING:  # a checker is to miss names that are not there

    def __getattr__(name: str) -> Any:
        return renamed(__name__, name)
