"""MMInference: prefill attention of long prompts in the pattern that was searched for each head."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from vtokens.core.facts import Facts
from vtokens.kernels import block_sparse_attention
from vtokens.strategies.base import Strategy
from vtokens.strategies.fields import UNLIMITED
from vtokens.strategies.needs import Needs
from vtokens.strategies.registry import register
from vtokens.strategies.views.heads import Heads, Span
from vtokens.strategies.views.prompt_part import answers, cut
from vtokens.tables import patterns as tables
from vtokens.tables.patterns import Patterns
from vtokens.tables.patterns.index import Run, index, share


@register(
    "mminference",
    paper="MMInference, arXiv:2504.16083",
    aliases=("permuted_prefill",),
    venue="ICML 2025",
    evidence="stand-in",
    shown="tests/strategies/test_mminference.py::test_sparse_equals_attention_masked_by_tiles",
)
@dataclass(frozen=True)
class MMInference(Strategy):
    """Computes the attention of long prompts sparsely, each head in its own pattern, permuted by grid and modality.

    Patterns (grid, A-shape, vertical-slash, with a boundary between modalities or without) come from a file; which
    lines a prompt has is estimated from its last rows. Each sample is a prompt by itself, whatever else is in the
    batch. Prompts, and heads, for which dense attention is predicted to be as fast get that; decoding always does.
    Nothing is dropped, neither from the sequence nor from the cache.

    Attributes:
        patterns: JSON file that `vtokens search-patterns` wrote; None takes the shipped ones.
        min_length: prompts of fewer positions, a sample's padding not counted, run dense.
        max_cost: so do heads, and layers, that are predicted to take more than this share of dense attention's time;
            inf never does.
    """

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

    def needs(self, facts: Facts) -> Needs:
        layers = self.prepare(facts).heads
        sparse = [number for number, heads in enumerate(layers) if any(head.run.intra for head in heads)]
        return Needs(attend=sparse, once=True, computes=True)

    def at_attend(self, heads: Heads) -> None:
        if not heads.is_image_prefill:
            return
        chosen: dict[tuple[Span, tuple[Run, ...]], list[int]] = {}
        for row, span in enumerate(heads.spans):
            chosen.setdefault((span, self._runs(heads, span)), []).append(row)
        batch, count, width, _ = heads.query.shape
        dense = torch.ones(batch)
        for (_, runs), rows in chosen.items():
            dense[rows] = sum(run.intra is None for run in runs) / count
        heads.log("heads_dense", dense)
        if all(share == 1 for share in dense.tolist()):
            heads.log("attention_computed", dense)
            return
        output = heads.value.new_zeros(batch, width, count, heads.value.shape[3])
        computed = torch.ones(batch, device=output.device)
        for (span, runs), rows in chosen.items():
            if span.end > span.first:
                part = cut(heads, rows, span)
                with heads.selecting():
                    tiles = index(runs, part.scene(heads.prepared.block))
                found, _ = block_sparse_attention(part.query, part.key, part.value, tiles, heads.scaling)
                found = found.transpose(1, 2)
                if len(rows) == batch and span.end - span.first == width:
                    output = found
                else:
                    output[rows, span.first : span.end] = found
                new = span.end - span.first
                area = count * (new * heads.past + new * (new + 1) / 2)
                computed[rows] = tiles.visited() * (tiles.block[0] * tiles.block[1] / area)
        heads.output = output
        answers(heads)
        heads.log("attention_computed", computed)

    def _runs(self, heads: Heads, span: Span) -> tuple[Run, ...]:
        """What each head runs on a sample's own prompt: all of it dense unless that is predicted to take longer."""
        table: Patterns = heads.prepared
        layer, count, rows = table.heads[heads.layer], heads.query.shape[1], span.end - span.first
        if len(layer) != count:
            raise ValueError(f"the patterns are for {len(layer)} heads a layer, but the decoder has {count}")
        if rows < self.min_length or not span.tokens:
            return (Run(),) * count
        keys = rows + heads.past
        costs = {head.run: table.ratio * share(head.run, rows, keys, span.strides, table.block) for head in layer}
        runs = tuple(head.run if costs[head.run] <= self.max_cost else Run() for head in layer)
        # Heads that stay dense pay for going through tiles.
        total = sum(costs[run] if run.intra is not None else table.ratio for run in runs)
        return runs if total <= self.max_cost * count else (Run(),) * count
