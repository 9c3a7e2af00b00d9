"""A cache layer that leaves room for the next tokens: transformers' own copies all of its keys for each of them."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicLayer

_ROOM = 64
"""Tokens that fit in before keys and values are copied again."""


class RoomyLayer(DynamicLayer):
    """transformers' growing layer, whose keys and values are the front of longer tensors.

    Args:
        keys, values: (B, H_kv, K, D), what it begins with.
    """

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.dtype, self.device = keys.dtype, keys.device
        self.keys, self.values, self.is_initialized = keys, values, True
        self._whole: tuple[Tensor, Tensor] | None = None
        self._shown: Tensor | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:  # it was reset
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
        keys: Any = self.keys
        values: Any = self.values
        start, end = keys.shape[-2], keys.shape[-2] + key_states.shape[-2]
        # What others put in the place of the keys, cut or chosen, is the front of nothing.
        if self._whole is None or self._shown is not keys or end > self._whole[0].shape[-2]:
            self._whole = _longer(keys, end + _ROOM), _longer(values, end + _ROOM)
        for whole, new in zip(self._whole, (key_states, value_states), strict=True):
            whole[:, :, start:end] = new
        self.keys, self.values = (whole[:, :, :end] for whole in self._whole)
        self._shown = self.keys
        return self.keys, self.values


def _longer(part: Tensor, room: int) -> Tensor:
    whole = part.new_empty(*part.shape[:2], room, part.shape[3])
    whole[:, :, : part.shape[2]] = part
    return whole
