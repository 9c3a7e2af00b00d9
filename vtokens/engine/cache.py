"""The KV cache of an attached layer: it stores what the layer saw and answers for what the caller fed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer

from vtokens.engine.beside import Beside
from vtokens.engine.copies import Copies
from vtokens.strategies.views.heads import Memory


@dataclass(frozen=True)
class Prefix:
    """The part of a cache layer in which stored and fed positions differ; after it they run in step.

    Attributes:
        stored: positions really cached.
        fed: positions the caller fed, dropped ones included.
        valid: bool (B, seen), False on padding; None if there is none.
        tail: trailing positions that are one to one and may be cropped again (speculative decoding).
        group: equal for layers that were reduced together and so share masks; 0 if nothing was dropped.
        memory: what `attend` strategies noted at the layer.
        copies: how the rows stored stand in the sequence that attention sees; None if they are that sequence.
    """

    stored: int
    fed: int
    valid: Tensor | None
    tail: int
    group: int
    memory: Memory = field(default_factory=Memory)
    copies: Copies | None = None

    @property
    def seen(self) -> int:
        """Positions that attention sees."""
        return self.stored if self.copies is None else self.copies.length

    @property
    def plain(self) -> bool:
        """Nothing was dropped: the layer is an ordinary one that carries a memory."""
        return self.group == 0

    def map(self, change: Callable[[Tensor], Tensor]) -> Prefix:
        """The same for other samples; `change` acts on the batch dimension."""
        valid = None if self.valid is None else change(self.valid)
        copies = None if self.copies is None else self.copies.map(change)
        return replace(self, valid=valid, memory=self.memory.map(change), copies=copies)

    def cropped(self, positions: int) -> Prefix:
        """Without its last `positions`."""
        valid = None if self.valid is None else self.valid[:, :-positions]
        return replace(
            self, stored=self.stored - positions, fed=self.fed - positions, valid=valid, tail=self.tail - positions,
            group=0 if self.plain else hash((self.group, positions)),
            copies=None if self.copies is None else self.copies.cropped(positions),
        )  # fmt: skip


_OF_WINDOWS = vars(DynamicSlidingWindowLayer(1)).keys() - vars(DynamicLayer()).keys()
"""What a layer of a sliding window counts, beside keys and values."""


class ReducedLayer(DynamicLayer):
    """A dynamic cache layer that holds fewer positions than it was fed.

    `get_seq_length` keeps counting fed positions, so that `generate`, position ids, cropping and multi-turn chat go
    on as without us; keys and values really are short. Beam reordering moves the padding along, and the negative branch
    that may stand beside.
    """

    def __init__(self, prefix: Prefix) -> None:
        super().__init__()
        self.prefix = prefix
        self.beside: Beside | None = None

    @classmethod
    def adopt(cls, layer: DynamicLayer, prefix: Prefix) -> ReducedLayer:
        """Take over the keys and values of `layer`."""
        new = cls(prefix)
        new.__dict__.update({k: v for k, v in layer.__dict__.items() if k not in {"prefix", *_OF_WINDOWS}})
        return new

    @property
    def stored(self) -> int:
        """Positions really cached."""
        return super().get_seq_length()

    def get_seq_length(self) -> int:
        """Positions fed so far, as the caller counts them."""
        stored = super().get_seq_length()
        return stored + self.prefix.fed - self.prefix.stored if stored else 0

    def crop(self, tokens_to_remove: int) -> None:
        """Remove `-tokens_to_remove` positions from the end; a positive number is the length to crop to.

        Raises:
            ValueError: that would cut into the pruned part.
        """
        if tokens_to_remove > 0:
            tokens_to_remove = min(0, tokens_to_remove - self.get_seq_length())
        prefix, remove = self.prefix, -tokens_to_remove
        into = remove - (self.stored - prefix.stored)
        if into > prefix.tail:
            raise ValueError(
                f"cannot crop {remove} positions: only the last {self.stored - prefix.stored + prefix.tail} come after "
                "the pruned visual tokens. Start again with an empty cache, or detach() the strategy first"
            )
        if self.beside is not None and remove:
            self.beside.check_crop(remove, self.get_seq_length())
            self.beside.crop(remove, self.get_seq_length())
        super().crop(tokens_to_remove)
        if into > 0:
            self.prefix = prefix.cropped(into)

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self._map(lambda part: part.repeat_interleave(repeats, dim=0), lambda x: x.batch_repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self._map(lambda part: part[indices.to(part.device)], lambda x: x.batch_select_indices(indices))

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        super().reorder_cache(beam_idx)
        self._map(lambda part: part.index_select(0, beam_idx.to(part.device)), lambda x: x.reorder_cache(beam_idx))

    def _map(self, change: Callable[[Tensor], Tensor], layer: Callable[[DynamicLayer], None]) -> None:
        self.prefix = self.prefix.map(change)
        if self.beside is not None:
            self.beside.map(change, layer)

    def reset(self) -> None:
        super().reset()
        # Older releases of transformers only zero the states, which would then count as fed.
        self.keys = self.values = None
        self.is_initialized = False
        self.beside = None
        self.prefix = Prefix(0, 0, None, 0, self.prefix.group)

    def padding(self, fed_mask: Tensor | None, upto: int) -> Tensor | None:
        """bool (B, K): which of the positions that attention sees may be attended to; None if all may.

        Args:
            fed_mask: (B, >= upto) padding mask over fed positions, or None.
            upto: fed positions cached before the current call.
        """
        prefix = self.prefix
        tail = upto - prefix.fed
        if tail == 0:
            return prefix.valid
        if fed_mask is None:
            if prefix.valid is None:
                return None
            after = torch.ones(len(prefix.valid), tail, dtype=torch.bool, device=prefix.valid.device)
        else:
            after = fed_mask[:, prefix.fed : upto].bool()
        before = prefix.valid
        if before is None:
            before = torch.ones(len(after), prefix.seen, dtype=torch.bool, device=after.device)
        return torch.cat([before.to(after.device), after], dim=1)


def stored_length(cache: Cache | None, layer: int) -> int:
    """Positions that layer `layer` of `cache` really holds."""
    if cache is None or layer >= len(cache.layers):
        return 0
    there: Any = cache.layers[layer]
    return there.stored if isinstance(there, ReducedLayer) else there.get_seq_length()


def seen_length(cache: Cache | None, layer: int) -> int:
    """Positions that attention over layer `layer` of `cache` sees."""
    there = held(cache, layer)
    extra = 0 if there is None else there.prefix.seen - there.prefix.stored
    return stored_length(cache, layer) + extra


def held(cache: Cache | None, layer: int) -> ReducedLayer | None:
    """Layer `layer` of `cache` if it is one of ours."""
    there = cache.layers[layer] if cache is not None and layer < len(cache.layers) else None
    return there if isinstance(there, ReducedLayer) else None


def holds_ours(cache: Cache | None) -> bool:
    """Whether any of its layers is one of ours."""
    return cache is not None and any(isinstance(layer, ReducedLayer) for layer in cache.layers)


def holds_copies(cache: Cache | None) -> bool:
    """Whether merged tokens are in it, which only an attached strategy can unmerge."""
    layers = [] if cache is None else [held(cache, index) for index in range(len(cache.layers))]
    return any(layer is not None and layer.prefix.copies is not None for layer in layers)


def check_cache(cache: Cache | None) -> None:
    """Raise `ValueError` if `cache` cannot hold layers of different lengths."""
    if cache is None:
        return
    for layer in cache.layers:
        # Those of a window hold all of a sequence that is shorter than it (`window`).
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer, ReducedLayer):
            raise ValueError(
                f"a {type(layer).__name__} in a {type(cache).__name__} cannot hold pruned sequences, whose length "
                "differs from layer to layer, nor what strategies note about them: use the default DynamicCache (no "
                "cache_implementation, no compiled or quantised cache), or detach() the strategy"
            )
