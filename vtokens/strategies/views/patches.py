"""What an `encode` strategy sees: tokens of the vision tower between a block's attention and its MLP."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
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
        query, value: (B, H, N, d), queries and values of that attention; None behind a tower.
        scaling: the factor on the products of its queries and keys.
        member: int64 (B, inputs), the token that each of the tower's inputs is in by now, leading ones included.
        notes: what was noted in this call, for each of the inputs.
    """

    block: int
    hidden: Tensor
    key: Tensor
    size: Tensor
    valid: Tensor
    protect: int
    prepared: Any = None
    query: Tensor | None = None
    value: Tensor | None = None
    scaling: float = 1.0
    member: Tensor | None = None
    notes: dict[str, Tensor] = field(default_factory=dict)

    @property
    def patches(self) -> int:
        """How many patches the tower was given, padding included."""
        return (self.hidden if self.member is None else self.member).shape[1] - self.protect

    def note(self, name: str, values: Tensor) -> None:
        """Note float (B, N) about the tokens: later blocks `recall` it, and `at_prompt` finds it by `Visuals.encoded`.

        What is dropped in this block keeps the value given here; what was dropped before gets that of the token that
        it is in.
        """
        values = values.detach().float()
        self.notes[name] = values if self.member is None else values.gather(1, self.member)

    def recall(self, name: str) -> Tensor | None:
        """float32 (B, N): what an earlier block noted, the largest of the inputs in a token; None if nothing."""
        found = self.notes.get(name)
        if found is None or self.member is None:
            return found
        return torch.full_like(self.size, -torch.inf).scatter_reduce(1, self.member, found, "amax")

    @property
    def metric(self) -> Tensor:
        """float32 (B, N, d), the mean of the keys over heads."""
        return self.key.detach().float().mean(1)
