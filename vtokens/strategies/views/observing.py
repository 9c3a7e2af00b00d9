"""How a view of visual tokens reads the signals that its strategy asked for."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vtokens.core.layout import Groups
from vtokens.strategies.signals import (
    Attention,
    Change,
    Entering,
    Heads,
    InLayer,
    LayerKeys,
    Neurons,
    Observed,
    Part,
    Pool,
    QueryRows,
    Relevance,
    Saliency,
    Sensitivity,
    Signal,
    Text,
    TowerKeys,
    TowerStates,
    Voters,
)


class Observing:
    """Part of what a pruner sees: its signals, for G groups of up to M visual tokens, or for all W positions.

    Attributes:
        hidden: (B, W, D) hidden states of the whole sequence.
        observed: where the signals are found.
    """

    hidden: Tensor
    observed: Observed
    _groups: Groups

    @property
    def valid(self) -> Tensor:
        """bool (G, M), False on the padding of shorter groups."""
        return self._groups.valid

    def saliency(self, blocks: tuple[int, ...] | None = None, rows: Voters = "cls", heads: Heads = "mean") -> Tensor:
        """float32 (G, M): how much the vision tower attends to each token; arguments as those of `Saliency`.

        Raises:
            ValueError: the tower ran without being watched for this.
        """
        return self._of_tower(lambda: self.observed.saliency(blocks, rows, heads), Saliency(blocks, rows, heads))

    def tower_keys(self, block: int | None = None) -> Tensor:
        """float32 (G, M, H, D): keys of a block of the vision tower, as its attention has them, for each of its heads.

        Where patches are joined to tokens, the mean of theirs. Towers that turn keys by position (the Qwen families)
        give turned ones.

        Raises:
            ValueError: the tower ran without being watched for this.
        """
        return self._of_tower(lambda: self.observed.tower_keys(block), TowerKeys(block))

    def tower_states(self, block: int | None = None) -> Tensor:
        """float32 (G, M, C): what leaves a block of the vision tower, before the projector; of joined patches the mean.

        Raises:
            ValueError: the tower ran without being watched for this.
        """
        return self._of_tower(lambda: self.observed.tower_states(block), TowerStates(block))

    def encoded(self, name: str) -> Tensor:
        """float32 (G, M): what the strategy's own `at_encode` noted about each token (`Patches.note`).

        Raises:
            ValueError: it noted nothing by this name when the tower ran.
        """
        return self._groups.gather(self.observed.encoded(name).to(self.hidden.device))

    def sensitivity(self, directions: int = 64, step: float = 0.01, seed: int = 0) -> Tensor:
        """float32 (G, M): how far each token's feature moves where the projector's input is pushed; see `Sensitivity`.

        Raises:
            ValueError: the projector ran without being watched for this.
        """
        signal = Sensitivity(directions, step, seed)
        return self._of_tower(lambda: self.observed.sensitivity(signal), signal)

    def attention(
        self,
        layer: int,
        rows: QueryRows = "last",
        rotary: bool = True,
        pool: Pool = "mean",
        lazy: bool = False,
        level: bool = False,
    ) -> Tensor:
        """float32 (G, M), (G, M, H) of each head: the attention each token receives in a decoder layer."""
        return self._groups.gather(self.received(layer, rows, rotary, pool, lazy, level))

    def received(
        self,
        layer: int,
        rows: QueryRows = "last",
        rotary: bool = True,
        pool: Pool = "mean",
        lazy: bool = False,
        level: bool = False,
    ) -> Tensor:
        """float32 (B, W), (B, W, H) of each head: the attention every position receives in a layer, text included.

        Raises:
            ValueError: that layer has not run yet, or ran without being watched for this.
        """
        signal = Attention(layer, rows, rotary, pool, lazy, level)
        return self._of_layer(f"attention received in layer {layer} from the rows {rows!r} is", signal)

    def keys(self, layer: int, rotary: bool = True) -> Tensor:
        """(G, M, H_kv, D): the keys of visual tokens in a decoder layer, for each key and value head."""
        return self._groups.gather(self.layer_keys(layer, rotary))

    def layer_keys(self, layer: int, rotary: bool = True) -> Tensor:
        """(B, W, H_kv, D): the keys of all positions in a decoder layer, text included.

        Raises:
            ValueError: that layer has not run yet, or ran without being watched for this.
        """
        return self._of_layer(f"keys of layer {layer} are", LayerKeys(layer, rotary))

    def neurons(self, layer: int, reference: int = -1) -> Tensor:
        """float32 (G, M): how many active neurons of an MLP each token has in common with a word of the prompt.

        Raises:
            ValueError: that layer has not run yet, or ran without being watched for this.
        """
        return self._groups.gather(self._of_layer(f"neurons of layer {layer} are", Neurons(layer, reference)))

    def entered(self, layer: int) -> Tensor:
        """(G, M, D): the states of visual tokens that entered a decoder layer.

        Raises:
            ValueError: that layer has not begun yet, or began without being watched for this.
        """
        return self._groups.gather(self._of_layer(f"states that entered layer {layer} are", Entering(layer)))

    def changes(self, layer: int, part: Part = "attention") -> Tensor:
        """float32 (B, W, 3): how attention, or the MLP, of a decoder layer changes what it is given at each position.

        Given x it puts out y: |y| / |x|, the cosine of both, and the softmax of 1 - cosine over the positions of the
        sample that the layer saw. `grouped` makes those of visual tokens of them.

        Raises:
            ValueError: that layer has not run yet, or ran without being watched for this.
        """
        return self._of_layer(f"changes by {part} in layer {layer} are", Change(layer, part))

    def grouped(self, values: Tensor) -> Tensor:
        """(G, M, ...): of values (B, W, ...) for all positions, those of visual tokens."""
        return self._groups.gather(values)

    def normed(self, states: Tensor) -> Tensor:
        """States (..., D) as the norm behind the last decoder layer would leave them."""
        return self.observed.normed(states)

    def ids(self) -> Tensor:
        """int64 (B, W): token ids of the prompt, as the processor made them.

        Raises:
            ValueError: the prompt was given as embeddings alone.
        """
        return self.observed.ids()

    def relevance(self, text: Text = "after") -> Tensor:
        """float32 (G, M), -1 to 1: the mean cosine of each token with the prompt's text, where they enter the decoder.

        Raises:
            ValueError: nobody asked for it.
        """
        try:
            return self._groups.gather(self.observed.relevance(text).to(self.hidden.device))
        except KeyError:
            raise ValueError(f"relevance to the text is not known here: {_asked(Relevance(text))}") from None

    def text(self, which: Text = "after") -> Tensor:
        """bool (B, W): positions of text, which `hidden` has the states of; "after" and "all" as in `Relevance`."""
        return self.observed.text(which).to(self.hidden.device)

    def copies(self) -> Tensor | None:
        """int64 (G, M): equal, above 0, for tokens that the vision tower merged into one; None if it merged none."""
        found = self.observed.copies()
        return None if found is None else self._groups.gather(found.to(self.hidden.device))

    @property
    def sizes(self) -> Tensor:
        """float32 (G, M): how many tokens each counts for in attention; 1 where no strategy said otherwise."""
        logs = self.observed.sizes()
        return torch.ones_like(self.valid, dtype=torch.float32) if logs is None else self._groups.gather(logs).exp()

    def _of_tower(self, find: Callable[[], Tensor], signal: Signal) -> Tensor:
        try:
            found = find()
        except ValueError as error:
            error.add_note(f"A strategy that reads it asks for it: Needs(signals=({signal},)).")
            raise
        return self._groups.gather(found.to(self.hidden.device))

    def _of_layer(self, what: str, signal: InLayer) -> Tensor:
        try:
            return self.observed.noted(signal).to(self.hidden.device)
        except KeyError:
            raise ValueError(f"{what} not known here: {_asked(signal)}, and read it before a later layer") from None


def _asked(signal: Signal) -> str:
    return f"let needs(facts) return Needs(signals=({signal},))"
