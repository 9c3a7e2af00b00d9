"""The tokens of one run of the vision tower while strategies merge them, and the way back to patches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vtokens.engine.state.view import gather
from vtokens.kernels import Merged, compact

_STRIDE = {"cpu": 1}
"""After how many rounds rows that were merged away are dropped, by device type."""
_STRIDE_ELSEWHERE = 4
"""An accelerator makes the host wait each time, so there they stay a while, as rows that nobody attends to."""


class Merging:
    """Which patch is in which token.

    Attributes:
        protect: leading tokens that are no patches.
        size: float32 (B, N), patches each token stands for; 0 on rows that were merged away or are padding.
        valid: bool (B, N), the others.
        member: int64 (B, patches + protect), the token that each of the tower's inputs went into.
        real: bool (B, patches + protect), False on padding among those inputs.
        begun: something may have been merged.
        key: (B, H, N, d), keys of the block under way.
        after: (B, N, C), what leaves the block under way; None if nothing is merged there.
    """

    def __init__(self, valid: Tensor, protect: int) -> None:
        self.protect, self.real, self.valid, self.size = protect, valid, valid, valid.float()
        self.member = torch.arange(valid.shape[1], device=valid.device).expand_as(valid)
        self.begun = False
        self.key: Tensor | None = None
        self.after: Tensor | None = None
        self._rounds = 0

    def state(self) -> dict[str, Any]:
        """Which patch is in which token, as plain values and tensors on the CPU."""
        tensors = {name: getattr(self, name).cpu() for name in ("real", "valid", "size", "member")}
        return {"protect": self.protect, "begun": self.begun, **tensors}

    @classmethod
    def of(cls, state: dict[str, Any]) -> Merging:
        """One that is over, from its `state`."""
        merging = cls(state["real"], state["protect"])
        merging.valid, merging.size, merging.member = state["valid"], state["size"], state["member"]
        merging.begun = state["begun"]
        return merging

    def follow(self, merged: Merged, last: bool = False) -> Tensor:
        """Take a round of merging over; returns the tokens (B, N', C) that go on.

        Args:
            merged: the round.
            last: no other follows, so that rows nobody needs are dropped now.
        """
        hidden, self.size, self.valid, row = merged
        self.member = row.gather(1, self.member)
        self._rounds += 1
        self.begun = True
        if last or self._rounds % _STRIDE.get(hidden.device.type, _STRIDE_ELSEWHERE) == 0:
            hidden, self.size, self.valid, row = compact(hidden, self.size, self.valid)
            self.member = row.gather(1, self.member)
        return hidden

    @property
    def bias(self) -> Tensor:
        """float32 (B, N): what is added to the scores of each key, so that it counts for all of its patches."""
        return self.size.log()

    def to_patches(self, scores: Tensor) -> Tensor:
        """Scores of tokens float32 (B, N) shared out evenly: (B, patches)."""
        return (scores / self.size.clamp(min=1)).gather(1, self.member)[:, self.protect :]

    def expand(self, features: Tensor) -> Tensor:
        """Features of tokens (B, N, D) at every patch; those of the leading tokens may be missing, here and there."""
        missing = self.valid.shape[1] - features.shape[1]
        return gather(features, self.member[:, missing:] - missing, 1)

    def mean(self, features: Tensor) -> Tensor:
        """(B, patches, D): features of patches, each replaced by the mean over all that are in its token."""
        member = self.member[..., None].expand_as(features)
        total = torch.zeros(*self.size.shape, features.shape[-1], device=features.device)
        total = total.scatter_add(1, member, torch.where(self.real[..., None], features, 0).float())
        return (total / self.size.clamp(min=1)[..., None]).gather(1, member).to(features)

    def ids(self) -> Tensor:
        """int64 (B, patches): equal for patches in one token, above 0, different between rows."""
        batch, width = self.member.shape
        row = width * torch.arange(batch, device=self.member.device)[:, None]
        return (self.member + row + 1)[:, self.protect :]
