"""MMInference: prefill attention of long prompts in the pattern that was searched for each head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from vtokens import patterns as tables
from vtokens.kernels import block_sparse_attention
from vtokens.patterns import Patterns
from vtokens.patterns.index import Run, Scene, index, share
from vtokens.strategies.base import Strategy
from vtokens.strategies.fields import UNLIMITED
from vtokens.strategies.heads import Heads
from vtokens.strategies.registry import register
from vtokens.strategies.signals import Facts


@register("mminference", paper="MMInference, arXiv:2504.16083", aliases=("permuted_prefill",))
@dataclass(frozen=True)
class MMInference(Strategy):
    """Computes the attention of long prompts sparsely, each head in its own pattern, permuted by grid and modality.

    Patterns (grid, A-shape, vertical-slash, with a boundary between modalities or without) come from a file; which
    lines a prompt has is estimated from its last rows. Prompts, and heads, for which dense attention is predicted to be
    as fast get that; decoding always does. Nothing is dropped, neither from the sequence nor from the cache.

    Attributes:
        patterns: JSON file that `vtokens search-patterns` wrote; None takes the shipped ones.
        min_length: passes of fewer positions run dense.
        max_cost: so do heads, and layers, that are predicted to take more than this share of dense attention's time;
            inf never does.
    """

    once: ClassVar[bool] = True
    computes: ClassVar[bool] = True
    patterns: str | None = None
    min_length: int = 16384
    max_cost: float = field(default=0.8, metadata=UNLIMITED)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_length < 1:
            raise ValueError(f"min_length={self.min_length} is out of range: 1 and above is allowed")
        if not self.max_cost > 0:
            raise ValueError(f"max_cost={self.max_cost!r} is out of range: a share above 0 is allowed, inf is no limit")

    def check(self, facts: Facts) -> None:
        self.prepare(facts)

    def prepare(self, facts: Facts) -> Patterns:
        table = tables.known(facts.decoder) if self.patterns is None else tables.read(self.patterns)
        if table is None:
            raise ValueError(
                f"the head patterns of the decoder {facts.decoder!r} are not known: `vtokens search-patterns MODEL "
                "--out patterns.json` finds them, and 'mminference(patterns=\"patterns.json\")' uses them"
            )
        if table.decoder != facts.decoder or len(table.heads) != facts.depth:
            raise ValueError(
                f"{self.patterns!r} holds the head patterns of the decoder {table.decoder!r} with {len(table.heads)} "
                f"layers, this one is {facts.decoder!r} with {facts.depth}: find its own with "
                "`vtokens search-patterns MODEL --out FILE`"
            )
        return table

    def attends_in(self, facts: Facts) -> Sequence[int]:
        layers = self.prepare(facts).heads
        return [number for number, heads in enumerate(layers) if any(head.run.intra for head in heads)]

    def at_attend(self, heads: Heads) -> None:
        if not heads.fresh:
            return
        runs = self._runs(heads)
        batch, _, rows, _ = heads.query.shape
        sparse = [run for run in runs if run.intra is not None]
        told = torch.full((batch,), 1 - len(sparse) / len(runs), device=heads.query.device)
        heads.tell("heads_dense", told)
        if not sparse:
            heads.tell("attention_computed", told)
            return
        with heads.selecting():
            scene = Scene(
                heads.query, heads.key, heads.scaling, heads.visual, heads.valid, heads.strides, heads.prepared.block
            )
            tiles = index(runs, scene)
        output, _ = block_sparse_attention(heads.query, heads.key, heads.value, tiles, heads.scaling)
        heads.output = output.transpose(1, 2)
        area = len(runs) * (rows * heads.past + rows * (rows + 1) / 2)
        heads.tell("attention_computed", tiles.visited() * (tiles.block[0] * tiles.block[1] / area))

    def _runs(self, heads: Heads) -> list[Run]:
        """What each head runs at this length: all of it dense unless that is predicted to take longer."""
        table: Patterns = heads.prepared
        layer, (_, count, rows, _), keys = table.heads[heads.layer], heads.query.shape, heads.key.shape[2]
        if len(layer) != count:
            raise ValueError(f"the patterns are for {len(layer)} heads a layer, but the decoder has {count}")
        if rows < self.min_length:
            return [Run()] * count
        costs = {head.run: table.ratio * share(head.run, rows, keys, heads.strides, table.block) for head in layer}
        runs = [head.run if costs[head.run] <= self.max_cost else Run() for head in layer]
        # Heads that stay dense pay for going through tiles.
        total = sum(costs[run] if run.intra is not None else table.ratio for run in runs)
        return runs if total <= self.max_cost * count else [Run()] * count
