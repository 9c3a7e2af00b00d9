"""The recording of forward passes: queries, hidden states and logits of the rows that predict the response."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from vtokens.adapters import Adapter
from vtokens.core.compat import returned_cache
from vtokens.engine.state.cache_layers import all_keys
from vtokens.filter.trace.measure import Asked, Likelihood, Looked, entropies, likelihood, looks
from vtokens.filter.trace.trace import Parts
from vtokens.strategies.views.heads import Heads

_BLOCK = 16
"""Steps whose logits are held before they are reduced to three numbers each."""
_TOGETHER = 1 << 18
"""At most this many numbers of keys are put side by side, so that several layers are looked at in one go."""


@dataclass
class Entered:
    """The states that entered one decoder layer.

    Attributes:
        image: (B, W, D), all rows of the pass that brought the pictures; None unless visual tokens are asked for.
        hidden: (B, R, D) a pass, of the rows that predict.
    """

    image: Tensor | None = None
    hidden: list[Tensor] = field(default_factory=list)


@dataclass
class Layer:
    """The recording of the attention of one decoder layer.

    Attributes:
        visual: bool (B, W), which rows of the pass that brought the pictures hold visual tokens.
        fed: int64 (B, W), which fed positions these rows are; None if they are the same.
        real: bool (B, W), False on padding; None if there is none.
        past: keys that were cached before that pass.
        scaling: the factor on the products of queries and keys.
        softcap: c, where they become c * tanh(s / c); None if they stay as they are.
        query: (B, H, R, D) a pass, of the rows that predict.
        outputs: (B, R, H, D) a pass, head outputs of the same rows.
        key: (B, H_kv, K, D), all keys, where nothing was cached and they wait until all layers are looked at together.
        looked: where these rows looked, once that is computed.
    """

    visual: Tensor
    fed: Tensor | None
    real: Tensor | None
    past: int
    scaling: float
    softcap: float | None
    query: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    key: Tensor | None = None
    looked: Looked | None = None

    @property
    def width(self) -> int:
        """W: rows of the pass that brought the pictures."""
        return self.visual.shape[1]

    def asked(self, key: Tensor) -> Asked | None:
        """What the rows asked of all keys (B, H_kv, K, D), which never change once they are cached.

        None if the keys are not those of the rows, one after the other.
        """
        query, behind = torch.cat(self.query, 2), key.shape[2] - self.width
        first = key.shape[2] - query.shape[2]
        if self.past or first != self.width - self.query[0].shape[2]:
            return None
        real = None if self.real is None else pad(self.real, (0, behind), value=True)
        return Asked(query, key, self.scaling, real, pad(self.visual, (0, behind)), first, self.softcap)


@dataclass
class Tape:
    """The recording that a `Recorder` makes. Only what `parts` asks for is held.

    Attributes:
        parts: what is wanted.
        rows: how many rows at the end of the pass predict response tokens; None while the model writes, one a pass.
        linear: decoder layers without attention.
        layers: what was noted at each tapped decoder layer.
        entered: the states that entered decoder layers, whether they have attention or not.
        fed: int64 (B, n) a pass: the tokens fed to it.
        final: (B, R, D) a pass: states that left the decoder.
        final_image: (B, N, D), those of the pass that brought the pictures, at the length that was fed.
        lost: several tokens were fed at once behind the prompt, or the gate let the answer through, so that nothing
            more is noted.
        gate: is told the entropies (B,) of the first tokens, in nats, and says whether to note nothing.
        first: these entropies, where there is a gate.
        entering: states (B, W, D) that entered a layer without attention in the call that runs, by layer.
        left_out: names of attached strategies that did not act in this pass, though not on logits alone.
    """

    parts: Parts
    rows: int | None
    adapter: Adapter
    linear: tuple[int, ...] = ()
    layers: dict[int, Layer] = field(default_factory=dict)
    entered: dict[int, Entered] = field(default_factory=dict)
    fed: list[Tensor] = field(default_factory=list)
    final: list[Tensor] = field(default_factory=list)
    final_image: Tensor | None = None
    lost: bool = False
    gate: Callable[[Tensor], bool] | None = None
    first: Tensor | None = None
    entering: dict[int, Tensor] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    _decoded: Any = None
    _ran: Any = None
    _logits: list[Tensor] = field(default_factory=list)
    _likelihood: list[Likelihood] = field(default_factory=list)

    @property
    def cache(self) -> Any:
        """What the model writes keys into; None before its first call, and where it keeps none."""
        return returned_cache(self._ran)

    @cached_property
    def depth(self) -> int:
        """Decoder layers of the model."""
        return len(self.adapter.layers)

    @cached_property
    def tapped(self) -> list[int]:
        """Decoder layers whose attention has to be watched."""
        return sorted(self.parts.layers | {*self.entries} - {*self.linear})

    @cached_property
    def untapped(self) -> list[int]:
        """Decoder layers without attention what enters which has to be watched."""
        return sorted({*self.entries} & {*self.linear})

    @cached_property
    def entries(self) -> list[int]:
        """Decoder layers what enters which has to be watched."""
        return sorted((self.parts.states | self.parts.image_states | self.parts.lens) - {self.depth})

    def enter(self, number: int, hidden: Tensor) -> None:
        """Note the states (B, W, D) that enter a decoder layer."""
        if self.lost:
            return
        entered = self.entered.get(number)
        if entered is None:
            wanted = number in self.parts.image_states | self.parts.lens
            entered = self.entered[number] = Entered(hidden if wanted else None)
        if number in self.parts.states:
            entered.hidden.append(self._predicting(hidden))

    def _predicting(self, states: Tensor) -> Tensor:
        """(B, R, D): of the states of a pass those of the rows that predict, which in a step are all."""
        rows = self.rows or 1
        return states if states.shape[1] == rows else states[:, -rows:]

    def note(self, heads: Heads) -> None:
        """Note one attention call."""
        if self.lost:
            return
        number, rows, parts = heads.layer, self.rows or 1, self.parts
        layer = self.layers.get(number)
        if layer is None:
            layer = self.layers[number] = Layer(
                heads.visual, heads.fed, heads.valid, heads.past, heads.scaling, heads.softcap
            )
        output = heads.output if number in parts.layers and parts.divergence else None
        self.step(number, heads.query[:, :, -rows:], heads.hidden, output)
        if self.rows is not None and number in parts.layers:
            layer.key = heads.key
            if len(parts.layers) * heads.key.numel() > _TOGETHER:
                self.look()

    def look(self, done: bool = True) -> bool:
        """Compute where the rows of layers that hold their keys looked; of small layers together, as calls cost most.

        done: no more rows will come, so that the queries can be let go.

        Returns:
            Whether the keys are those of the rows, one after the other.
        """
        waiting = [layer for layer in self.layers.values() if layer.key is not None]
        asked = [layer.asked(layer.key) for layer in waiting if layer.key is not None]
        for layer in waiting:
            layer.key = None
        if not all(asked):
            return False
        for layer, looked in zip(waiting, looks([one for one in asked if one], _TOGETHER), strict=True):
            layer.looked = looked
            if done:
                layer.query = []
        return True

    def step(self, number: int, query: Tensor, hidden: Tensor, output: Tensor | None) -> None:
        """Note the R rows that predict: (B, H, R, D), (B, R or more, D_model); (B, R or more, H, D) if it is asked for.

        The states are those of all rows where there are visual tokens among them.
        """
        self.enter(number, hidden)
        if number not in self.parts.layers:
            return
        layer = self.layers[number]
        layer.query.append(query)
        if self.parts.divergence and output is not None:
            layer.outputs.append(output[:, -query.shape[2] :])

    def attended(self, number: int, query: Tensor) -> None:
        """Note the queries (B, H, 1, D) of a step, of which no more is asked for."""
        if not self.lost:
            self.layers[number].query.append(query)

    def after_decoder(self, module: Any, args: Any, output: Any) -> None:
        """A hook: keep what leaves the decoder. The engine may run it for sequences of its own before the caller's, and
        behind it once the logits are there, so that what it gave last counts."""
        if not self.lost:
            self._decoded = output

    def _ended(self) -> None:
        """Note what entered layers without attention, and left the decoder."""
        for number, hidden in self.entering.items():
            self.enter(number, hidden)
        self.entering.clear()
        states, self._ran = self._decoded.last_hidden_state, self._decoded
        if self.final_image is None and self.depth in self.parts.image_states | self.parts.lens:
            self.final_image = states
        if self.depth in self.parts.states:
            self.final.append(self._predicting(states))

    def after_model(self, ids: Tensor, logits: Tensor) -> None:
        """Note what left the decoder in a call of the model; while it writes also what was fed, and its last logits."""
        writes = self.rows is None
        self.lost = self.lost or (writes and bool(self.fed) and ids.shape != (len(self.fed[0]), 1))
        if self.lost:
            return
        self._ended()
        if not writes:
            return
        if len(self._logits) == _BLOCK:
            self._reduce(torch.cat([*self.fed[1 - _BLOCK :], ids], 1))
        if not self.fed and self.gate is not None:
            self.first = entropies(logits[:, -1])
            if self.gate(self.first):
                self.lost = True
                return
        self.fed.append(ids)
        self._logits.append(logits[:, -1])

    def likelihood(self, sequences: Tensor) -> Likelihood:
        """(B, T) each, of all that was written; `sequences` is what `generate` returned, and `follows` said yes."""
        if self._logits:
            self._reduce(sequences[:, -len(self._logits) :])
        return Likelihood(*(torch.cat(part, 1) for part in zip(*self._likelihood, strict=True)))

    def follows(self, sequences: Tensor, done: bool = True) -> bool:
        """Whether what was fed, row by row, is what `generate` returned; computes attention if so.

        Args:
            sequences: int64 (B, n), prompts and what was written behind them so far.
            done: no more will be written.
        """
        if self.lost or not self.fed or len(sequences) != len(self.fed[0]):
            return False
        if self.parts.layers and self.adapter.anatomy.latent:  # no keys are cached, but what heads make theirs of
            return False
        states = [*(self.entered[i].hidden for i in self.parts.states - {self.depth}), self.final]
        if any(part and len(part) != len(self.fed) for part in states):  # the decoder was called by itself in between
            return False
        fed = torch.cat(self.fed, 1)
        if fed.shape[1] != sequences.shape[1] - 1 or not bool((fed == sequences[:, :-1]).all()):
            return False
        for number in sorted(self.parts.layers):
            parts = all_keys(self.cache, number)
            if parts is None:
                return False
            self.layers[number].key = parts[0]
        return self.look(done)

    def _reduce(self, ids: Tensor) -> None:
        """(B, n) tokens that followed the logits held."""
        logits = torch.stack(self._logits, 1)
        found = likelihood(logits.flatten(0, 1), ids.flatten())
        self._likelihood.append(Likelihood(*(part.view(ids.shape) for part in found)))
        self._logits = []
