"""The prompt's text without its pictures, run through the decoder layer by layer beside the pass."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vtokens.core.compat import as_cache
from vtokens.engine.attention.by_program import by_program
from vtokens.engine.attention.masks import layer_mask, to_stretch_end
from vtokens.engine.attention.tap import AttentionCall
from vtokens.engine.program import Acting
from vtokens.engine.state.lane import Lane
from vtokens.engine.state.per_layer import for_layers
from vtokens.engine.state.pictures import Pictures
from vtokens.engine.state.prompt_end import at_end
from vtokens.engine.state.view import gather
from vtokens.strategies.views.heads import Heads, Memory, Rows
from vtokens.strategies.views.states import Place


class TextLane:
    """A second, short sequence: text positions only, left-padded, numbered anew, never cached.

    Each layer runs twice: first without strategies, so that its head outputs can be compared with those of the pass;
    then with the same heads changed as in the pass, since VHR's reference feeds both sequences as one batch.

    Attributes:
        output: (B, H, D) float32, head outputs where the prompt ends, in the layer under way; 0 where it has no text.
        states: "layer" or "mlp", and decoder layer -> (B, D) float32, what leaves it there; 0 where it has no text.
    """

    def __init__(self, lane: Lane, pictures: Pictures, side: Mapping[str, Any], beside: Tensor | None) -> None:
        adapter, hidden, layout, ends = lane.adapter, lane.hidden, pictures.layout, pictures.ends
        self._batch_rows = lane.batch_rows
        self._adapter = adapter
        layout = layout.to(hidden.device)
        columns, self._real = layout.outside_columns()
        self._hidden = gather(hidden, columns, 1)
        real = torch.ones_like(columns, dtype=torch.bool) if self._real is None else self._real
        self._last = at_end(ends, columns, real)[:, 0]
        self._begun = (real & (columns <= ends.to(columns.device))).any(1)
        positions = (real.cumsum(1) - 1).clamp(min=0)
        both_ways = None if lane.both_ways is None else lane.both_ways.at(columns, self._real)
        self._until = None if both_ways is None else both_ways.until(None, columns.device)
        rule = None if self._until is None else to_stretch_end(self._until, 0, None)
        self._side, self._specs = dict(side), lane.specs
        # Where layers leave keys for later ones (Gemma 4), and none reads them: those that do are refused.
        leaves = "shared_kv_states" in inspect.signature(adapter.layers[0].forward).parameters
        self._unread: dict[str, Any] = {"shared_kv_states": {}} if leaves else {}
        self._mask = layer_mask(adapter.language_model.config, self._hidden, 0, self._real, rule=rule)
        self._positions = positions if lane.reads_positions else None
        beside = None if beside is None else gather(beside, columns.to(beside.device), 1)
        self._per_layer = for_layers(adapter, self._hidden, beside)
        ropes = {spec.rope for spec in lane.specs}
        self._angles = {rope: adapter.rotary(self._hidden, positions, rope) for rope in ropes}
        self._batch = torch.arange(len(columns), device=columns.device)
        self._strategies: Sequence[Acting] | None = None
        self._memory = Memory()
        self.active = False
        self.output: Tensor | None = None
        self.states: dict[tuple[Place, int], Tensor] = {}

    def observe(self, index: int) -> None:
        """Set `output` to that of layer `index`."""
        self._strategies = None
        self.note(index, "layer", self._run(index))

    def advance(self, index: int, strategies: Sequence[Acting], memory: Memory) -> None:
        """Go through layer `index`, with what the strategies noted about the samples in the pass."""
        self._strategies = [acting for acting in strategies if acting.needs.text_lane]
        self._memory = Memory(samples=memory.samples)
        self._hidden = self._run(index)

    def on_attention(self, index: int, attention: AttentionCall) -> tuple[Tensor, Any]:
        """Run an attention call of the text lane."""
        output, weights = attention.run()
        if self._strategies is None:
            self.output = self._at_end(output)
            return output, weights
        place = torch.arange(output.shape[1], device=output.device).expand(len(output), -1)
        rows = Rows(place, whole=True)
        heads = Heads(
            index, attention.query, attention.key, attention.value, attention.scaling, self._hidden, self._real,
            False, rows, rows, rows, self._memory, lambda: output, until=self._until, softcap=attention.softcap,
        )  # fmt: skip
        for _, part, some in by_program(heads, self._strategies, self._batch_rows):
            for acting in some:
                part.prepared = acting.prepared
                acting.strategy.at_attend(part)
        return heads.result, None

    def note(self, index: int, place: Place, hidden: Tensor) -> None:
        """Keep what leaves `place` of layer `index`, (B, T, D), where the prompt ends, while it is only looked at."""
        if self._strategies is None:
            self.states[place, index] = self._at_end(hidden)

    def _at_end(self, values: Tensor) -> Tensor:
        batch, last, begun = (part.to(values.device) for part in (self._batch, self._last, self._begun))
        return torch.where(begun.view(-1, *[1] * (values.dim() - 2)), values[batch, last].float(), 0)

    def output_of(self, rows: Sequence[int] | None) -> Tensor | None:
        """`output` of some rows of the batch; None stands for all of them."""
        return self.output if self.output is None or rows is None else self.output[rows]

    def _run(self, index: int) -> Tensor:
        layer, spec = self._adapter.layers[index], self._specs[index]
        self.active = True
        try:
            # The layer's own hooks belong to the pass, so its forward is called past them.
            output = layer.forward(
                self._hidden,
                *(() if self._per_layer is None else (self._per_layer[:, :, index],)),
                position_embeddings=self._angles[spec.rope],
                attention_mask=self._mask if spec.attends else self._real,
                position_ids=self._positions,
                use_cache=False,
                **as_cache(layer, None),
                **self._unread,
                **self._side,
            )
        finally:
            self.active = False
        return output[0] if isinstance(output, tuple) else output
