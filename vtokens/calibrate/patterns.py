"""The offline search: for each head the pattern that changes its output least, among those of bounded cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from vtokens.adapters import adapter_for
from vtokens.calibrate.tile_ratio import tile_ratio
from vtokens.engine import attach
from vtokens.kernels import block_sparse_attention
from vtokens.strategies import Facts, Needs, Strategy
from vtokens.strategies.views.heads import Heads
from vtokens.tables.patterns import AShape, Grid, Head, Patterns, Run, VerticalSlash
from vtokens.tables.patterns.index import INTER, Estimates, Scene, index
from vtokens.tables.patterns.lines import Pattern


def candidates(keys: int) -> tuple[Run, ...]:
    """What is tried: ladders of sizes, in key tiles of `keys` keys, with every boundary that makes a difference."""
    shapes = [AShape(keys, keys * window) for window in (1, 4, 16, 64)]
    others: list[Pattern] = [
        VerticalSlash(keys * columns, diagonals, keys * window)
        for columns, diagonals, window in (
            (1, 2, 1), (1, 16, 1), (4, 4, 1), (4, 32, 1), (16, 0, 4), (16, 8, 4), (32, 32, 4)
        )
    ]  # fmt: skip
    for columns, rows, slashes in ((1, 1, 0), (1, 0, 0), (0, 1, 0), (1, 1, 1), (0, 0, 1)):
        others.append(Grid(bool(columns), bool(rows), bool(slashes), keys * 4, (), keys * 4))
    # A window and the first keys do not depend on the query's modality.
    return (
        *(Run(inter, intra) for intra in shapes for inter in ("none", "k")),
        *(Run(inter, intra) for intra in others for inter in INTER),
    )


@dataclass
class PatternSums:
    """Sums over samples, (layers, candidates, heads): of errors, of recalls and of shares of tiles."""

    error: Tensor
    recall: Tensor
    density: Tensor
    samples: int = 0
    longest: int = 0
    shortest: int = 1 << 60


@dataclass(frozen=True)
class Trial(Strategy):
    """Runs every candidate on every head of a prompt, writes down what it does to the output, and changes nothing."""

    tried: tuple[Run, ...] = ()
    block: tuple[int, int] = (128, 64)
    tally: PatternSums | None = field(default=None, compare=False)

    def needs(self, facts: Facts) -> Needs:
        return Needs(attend=range(facts.depth), computes=True)

    @torch.no_grad()
    def at_attend(self, heads: Heads) -> None:
        assert self.tally is not None
        count = heads.query.shape[1]
        strides = tuple(sorted({stride for span in heads.spans for stride in span.strides}))
        scene = Scene(heads.query, heads.key, heads.scaling, heads.visual, heads.valid, strides, self.block)
        estimates: Estimates = {}

        def run(candidate: Run) -> tuple[Tensor, Tensor, Tensor]:
            tiles = index([candidate] * count, scene, estimates)
            output, lse = block_sparse_attention(heads.query, heads.key, heads.value, tiles, heads.scaling)
            visited = torch.zeros(count, device=lse.device)
            visited.index_add_(0, torch.tensor(tiles.heads, device=lse.device), tiles.count.float().sum((0, 2)))
            return output.float(), lse, visited

        dense, whole, every = run(Run())
        there = whole > -torch.inf
        size = dense.square().sum((0, 2, 3)).clamp(min=1e-30)
        for number, candidate in enumerate(self.tried):
            output, lse, visited = run(candidate)
            error = ((output - dense).square().sum((0, 2, 3)) / size).sqrt()
            recall = torch.where(there, (lse - whole).exp(), 0).sum((0, 2)) / there.sum((0, 2)).clamp(min=1)
            place = (heads.layer, number)
            self.tally.error[place] += error.cpu()
            self.tally.recall[place] += recall.cpu()
            self.tally.density[place] += (visited / every).cpu()


def search(
    model: PreTrainedModel, batches: Iterable[dict[str, Any]], *, block: tuple[int, int] = (128, 64),
    cost: float | None = 0.5, density: float | None = None, max_error: float | None = None,
    tried: Sequence[Run] | None = None, progress: Callable[[], None] | None = None,
) -> Patterns:  # fmt: skip
    """Try patterns on prompts, and take for each head the one with the least mean error of those that cost little.

    The error of a candidate is the distance of a head's output from that of dense attention, over the latter's norm;
    its cost is the share of tiles it visits, times the measured time of such a tile over one of dense attention.

    Args:
        model: a loaded model of a supported family, nothing attached.
        batches: processor outputs with pictures, best of several lengths.
        block: rows and keys of a tile.
        cost: the most a pattern may take, as a share of dense attention's time; None if `density` bounds it.
        density: the most tiles it may visit, as a share of the causal ones; None if `cost` does.
        max_error: heads whose best pattern has a larger error stay dense; None accepts any.
        tried: what to try; default `candidates`.
        progress: called after each prompt.

    Raises:
        ValueError: no prompts, neither or both of the bounds, or one that is not positive.
    """
    if (cost is None) == (density is None) or not (cost or density or 0) > 0:
        raise ValueError(f"cost={cost!r} and density={density!r}: one of them, above 0, is needed")
    tried = candidates(block[1]) if tried is None else tuple(tried)
    adapter = adapter_for(model)
    config = adapter.language_model.config
    shape = (len(adapter.layers), len(tried), config.num_attention_heads)
    tally = PatternSums(torch.zeros(shape), torch.zeros(shape), torch.zeros(shape))
    with attach(model, Trial(tried, block, tally)):
        for batch in batches:
            with torch.no_grad():
                model(**batch)
            lengths = batch["attention_mask"].sum(1)
            tally.samples += 1
            tally.shortest = min(tally.shortest, int(lengths.min()))
            tally.longest = max(tally.longest, int(lengths.max()))
            if progress is not None:
                progress()
    if not tally.samples:
        raise ValueError("no prompts to try patterns on: at least one is needed")
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    ratio, device = tile_ratio(model.device, model.dtype, dim, block)
    most = cost / ratio if cost is not None else density or 0.0
    heads = choose(tally, tried, most, max_error)
    source = (
        f"vtokens search-patterns: {tally.samples} prompts of {tally.shortest} to {tally.longest} positions, "
        f"{len(tried)} candidates of at most {most:.3g} of the tiles; ratio measured on {device}"
    )
    return Patterns(adapter.facts.decoder, block, ratio, source, heads)


def choose(
    tally: PatternSums, tried: Sequence[Run], density: float, max_error: float | None
) -> tuple[tuple[Head, ...], ...]:
    """For each layer and head the candidate of least mean error that visits at most `density` of the tiles."""
    error, recall, share = (part / tally.samples for part in (tally.error, tally.recall, tally.density))
    allowed = share <= density
    best = error.masked_fill(~allowed, torch.inf).min(1)
    chosen = []
    for layer in range(len(error)):
        row = []
        for head in range(error.shape[2]):
            number, least = int(best.indices[layer, head]), float(best.values[layer, head])
            if least == float("inf") or (max_error is not None and least > max_error):
                row.append(Head(Run(), 1.0, 0.0, 1.0))
                continue
            place = (layer, number, head)
            row.append(Head(tried[number], *(round(float(part[place]), 4) for part in (share, error, recall))))
        chosen.append(tuple(row))
    return tuple(chosen)
