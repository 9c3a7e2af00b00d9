"""What an `encode` strategy sees: tokens of the vision tower between a block's attention and its MLP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Patches:
    """Tokens of the vision tower that may be merged, one row a picture (or a crop or frame of one).

    Where a family joins patches after its tower (Qwen-VL), these are the joined tokens, `block` counts rounds of
    merging and the keys are the tokens themselves.

    Attributes:
        block: tower block, 0-based.
        hidden: (B, N, C), the residual stream behind the block's attention.
        key: (B, H, N, d), the keys of that attention.
        size: float32 (B, N), patches that each token stands for; 0 where it is not `valid`.
        valid: bool (B, N), False on padding and on what was merged away.
        protect: leading tokens that are no patches (1 for a class token).
        prepared: what the strategy's `prepare` made.
    """

    block: int
    hidden: Tensor
    key: Tensor
    size: Tensor
    valid: Tensor
    protect: int
    prepared: Any = None

    @property
    def metric(self) -> Tensor:
        """float32 (B, N, d), the mean of the keys over heads."""
        return self.key.detach().float().mean(1)
