"""Finding the thresholds at which a vision tower loses a wanted share of its tokens."""

from __future__ import annotations

import inspect
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import torch
from transformers import PreTrainedModel

from vtokens.adapters import Adapter, adapter_for
from vtokens.core.facts import Facts
from vtokens.engine import attach
from vtokens.engine.checks.outside import check_inside
from vtokens.engine.state.tower_run import run_in
from vtokens.kernels import Merged, match, merge, pooled_threshold
from vtokens.strategies.base import Strategy
from vtokens.strategies.merge.dymu import Dymu
from vtokens.strategies.needs import Needs
from vtokens.strategies.views.patches import Patches
from vtokens.tables.thresholds import Table, TargetThresholds

Batch = dict[str, Any]


def measure(
    model: PreTrainedModel,
    batches: Callable[[], Iterable[Batch]],
    targets: Sequence[float],
    source: str,
    progress: Callable[[], None] | None = None,
) -> Table:
    """Find thresholds by DyMU's procedure: in each batch all pictures compete for the merges a block may make.

    A block's threshold is the first edge it rejects, averaged over batches; later blocks see what earlier ones merged.
    Each batch is seen twice for each target, the second time to count what the averaged thresholds leave.

    Args:
        model: a loaded model of a supported family, nothing attached.
        batches: gives processor outputs of several pictures each, the same every time it is called.
        targets: shares of the patches to be left, on average over pictures.
        source: which pictures they are, for the file.
        progress: called after each batch.

    Raises:
        ValueError: no pictures, no target, or one that is out of reach.
    """
    adapter = adapter_for(model)
    check_inside(adapter, "dymu's calibration")
    if not targets:
        raise ValueError("no target: at least one share of patches to be left is needed, such as 0.35")
    settings = []
    for target in targets:
        rates = schedule(target, adapter.facts.merge_blocks)
        found: dict[int, list[float]] = defaultdict(list)
        for _ in _runs(model, adapter, _Measure(rates, found), batches, progress):
            pass
        if not found:
            raise ValueError("no pictures to measure: at least one batch is needed")
        thresholds = tuple(round(fmean(found[block]), 6) for block in range(len(rates)))
        left = [share for seen in _runs(model, adapter, Dymu(thresholds), batches, progress) for share in _left(seen)]
        settings.append(TargetThresholds(target, round(fmean(left), 4), tuple(round(r, 4) for r in rates), thresholds))
    facts = adapter.facts
    sample = tuple(round(value, 6) for value in facts.tower_sample)
    return Table(facts.tower, sample, source, tuple(settings))


def schedule(target: float, blocks: int | None) -> tuple[float, ...]:
    """How much each block, or round behind the tower, is to merge away, as a share of a picture's patches.

    The same everywhere, as in the paper, except that no block can merge away more than half of what it gets.

    Args:
        target: the share of patches to be left.
        blocks: tower blocks there are; None takes as many rounds as it needs, and one more.

    Raises:
        ValueError: the target is no share, or that few tokens cannot be reached in so many blocks.
    """
    if not 0 < target < 1:
        raise ValueError(f"target={target!r} is out of range: a share of the patches in (0, 1)")
    count = math.ceil(-math.log2(target)) + 1 if blocks is None else blocks
    least = 0.5**count
    if target < least:
        raise ValueError(f"target={target:g} is out of reach: {count} blocks can leave {least:.3g} of the patches")
    low, high = 0.0, 0.5
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if sum(_capped(middle, count)) >= 1 - target else (middle, high)
    return _capped(high, count)


def _capped(rate: float, count: int) -> tuple[float, ...]:
    rates, left = [], 1.0
    for _ in range(count):
        rates.append(min(rate, left / 2))
        left -= rates[-1]
    return tuple(rates)


@dataclass(frozen=True)
class _Measure(Strategy):
    """Merges what the schedule says and notes from which similarity on."""

    rates: tuple[float, ...] = ()
    found: dict[int, list[float]] = field(default_factory=dict)

    def needs(self, facts: Facts) -> Needs:
        return Needs(encode=range(len(self.rates)))

    def at_encode(self, patches: Patches) -> Merged:
        edges = match(patches.metric, patches.valid, patches.protect)
        originals = float(patches.size[:, patches.protect :].sum())
        threshold = pooled_threshold(edges.score, round(self.rates[patches.block] * originals))
        self.found[patches.block].append(threshold)
        return merge(patches.hidden, patches.size, patches.valid, edges, threshold)


def _runs(
    model: Any, adapter: Adapter, strategy: Strategy, batches: Callable[[], Iterable[Batch]], progress: Any
) -> Iterable[Any]:
    """What was seen of each batch's feature call under a strategy."""
    names = inspect.signature(adapter.multimodal.get_image_features).parameters
    with torch.no_grad(), attach(model, strategy):
        for batch in batches():
            given = {name: value for name, value in batch.items() if name in names}
            yield run_in("image", adapter.multimodal.get_image_features(**given, return_dict=True), True, adapter)
            if progress is not None:
                progress()


def _left(seen: Any) -> list[float]:
    """The share of patches left, picture by picture (crop by crop, frame by frame where the tower sees these)."""
    merging = seen.merging
    patches = merging.real.sum(1) - merging.protect
    return ((merging.valid.sum(1) - merging.protect) / patches).tolist()
