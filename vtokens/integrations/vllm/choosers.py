"""The choosers of one served model: made of text, once each."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from vtokens.integrations.behind_tower.asked import asked
from vtokens.integrations.behind_tower.chooser import Chooser
from vtokens.integrations.behind_tower.stand_in import stand_in

KEY = "vtokens"
"""What we are called among processor kwargs, and among the tensors of an item."""
_MOST = 256
"""Choosers that are kept."""


class Choosers:
    """What a server's model can be asked for.

    Args:
        config: the model's, of transformers.
        default: what the server was started with under "vtokens", which may be nothing but `{}`.
        blocks: as for `Chooser`.

    Raises:
        TypeError, ValueError: the default cannot run.
    """

    def __init__(self, config: Any, default: Any, blocks: int | None = None) -> None:
        self.adapter = stand_in(config)
        self._default, self._blocks = default, blocks
        self.of = functools.lru_cache(_MOST)(self._of)
        self.asked(None)

    def asked(self, own: Any) -> Chooser:
        """The chooser for a request; None is one that asks for nothing itself.

        Raises:
            TypeError, ValueError: it cannot run; says why, and what can.
        """
        return self.of(asked(own, self._default))

    def _of(self, text: str) -> Chooser:
        return Chooser(self.adapter, text, self._blocks)


def default_of(kwargs: Any) -> Any:
    """What a server's processor kwargs say under "vtokens"; None if nothing, and then it prunes nothing."""
    return (kwargs or {}).get(KEY)


def written(text: str) -> Tensor:
    """uint8 (n,): a text as a tensor, in which an item carries it from the processor to the model."""
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)


def read(tensor: Tensor) -> str:
    """The text of `written`."""
    return bytes(tensor.flatten().tolist()).decode()
