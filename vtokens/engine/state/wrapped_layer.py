"""A cache layer around one of transformers', which goes on storing keys and values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin


class WrappedLayer(CacheLayerMixin):
    """A cache layer that hands on to another one what it does not do itself.

    Attributes:
        inner: the layer of transformers' that stores keys and values.
        room: positions that may be stored by the caller's count, where slots are fixed; None where the layer grows.
    """

    def __init__(self, inner: Any, room: int | None = None) -> None:
        self.inner = inner
        self.room: int | None = getattr(inner, "max_cache_len", None) if room is None else room

    def __getattr__(self, name: str) -> Any:
        if name == "inner":  # asked for before it is set, while a copy is being made
            raise AttributeError(name)
        return getattr(self.inner, name)

    @property
    def keys(self) -> Any:  # type: ignore[override]  # attributes there
        """(B, H_kv, K, D), those of the inner layer."""
        return self.inner.keys

    @property
    def values(self) -> Any:  # type: ignore[override]
        """(B, H_kv, K, D), those of the inner layer."""
        return self.inner.values

    @property
    def is_initialized(self) -> bool:  # type: ignore[override]
        """Whether anything was stored."""
        return bool(self.inner.is_initialized)

    @property
    def is_compileable(self) -> bool:  # type: ignore[override]  # a class attribute there
        return bool(self.inner.is_compileable)

    @property
    def is_croppable(self) -> bool:  # type: ignore[override]
        return bool(self.inner.is_croppable)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.inner.lazy_initialization(key_states, value_states)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = self.inner.update(key_states, value_states, *args, **kwargs)
        return found

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        sizes: tuple[int, int] = self.inner.get_mask_sizes(query_length)
        return sizes

    def get_seq_length(self) -> int:
        length: int = self.inner.get_seq_length()  # on the device where slots are fixed
        return length

    def get_max_length(self) -> int:
        return int(self.inner.get_max_length()) if self.room is None else self.room

    def offload(self) -> None:
        self.inner.offload()

    def prefetch(self) -> None:
        self.inner.prefetch()

    def batch_repeat_interleave(self, repeats: int) -> None:
        self.inner.batch_repeat_interleave(repeats)
        self._map(lambda part: part.repeat_interleave(repeats, dim=0), lambda x: x.batch_repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        self.inner.batch_select_indices(indices)
        self._map(lambda part: part[indices.to(part.device)], lambda x: x.batch_select_indices(indices))

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        self.inner.reorder_cache(beam_idx)
        self._map(lambda part: part.index_select(0, beam_idx.to(part.device)), lambda x: x.reorder_cache(beam_idx))

    def _map(self, change: Callable[[Tensor], Tensor], layer: Callable[[Any], None]) -> None:
        """Let what is known of the keys follow other rows; `change` acts on tensors, `layer` on other cache layers."""
        raise NotImplementedError

    def _emptied(self) -> Any:
        """The inner layer without what it stored, with all the slots that the caller gave it."""
        inner = self.inner
        if self.room is not None and inner.max_cache_len != self.room:
            inner = type(inner)(max_cache_len=self.room)  # the next prompt may be kept whole
        inner.reset()
        # Older releases of transformers only zero the states, which would then count as fed.
        if not hasattr(inner, "max_cache_len"):
            inner.keys = inner.values = None
            inner.is_initialized = False
        return inner
