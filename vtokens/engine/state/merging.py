"""The tokens of one run of the vision tower while strategies merge them, and the way back to patches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vtokens.engine.state.view import gather
from vtokens.kernels import Merged, compact

_STRIDE = {"cpu": 1}
"""After how many rounds tokens that were merged away are dropped, by device type."""
_STRIDE_ELSEWHERE = 4
"""Elsewhere: compacting syncs the GPU, so merged tokens stay masked for 4 rounds."""


@dataclass(frozen=True)
class Merging:
    """Which patch is in which token, after some rounds of merging.

    Attributes:
        protect: leading tokens that are no patches.
        real: bool (B, patches + protect), False on padding among the tower's inputs.
        valid: bool (B, N), False on tokens that were merged away or are padding.
        size: float32 (B, N), patches each token stands for; 0 on tokens that are not valid.
        member: int64 (B, patches + protect), the token that each of the tower's inputs went into.
        rounds: how many rounds there were.
    """

    protect: int
    real: Tensor
    valid: Tensor
    size: Tensor
    member: Tensor
    rounds: int = 0

    @classmethod
    def start(cls, valid: Tensor, protect: int) -> Merging:
        """Before the first round: each of the inputs, `valid` bool (B, N), is a token."""
        member = torch.arange(valid.shape[1], device=valid.device).expand_as(valid)
        return cls(protect, valid, valid, valid.float(), member)

    @classmethod
    def among(cls, real: Tensor, shown: Tensor, into: Tensor, protect: int) -> Merging:
        """One round by which the tower was shown fewer tokens: whatever each stands for, it counts once.

        Args:
            real: bool (B, N), False on padding among what it would have been shown.
            shown: bool (B, N'), False on padding among what it was.
            into: int64 (B, N), which of those each went into.
            protect: as in `start`; they are shown, in front.
        """
        return cls(protect, real, shown, shown.float(), into, rounds=1)

    @property
    def begun(self) -> bool:
        """Whether something may have been merged."""
        return self.rounds > 0

    def content(self) -> dict[str, Any]:
        """Which patch is in which token, as plain values and tensors on the CPU."""
        tensors = {name: getattr(self, name).cpu() for name in ("real", "valid", "size", "member")}
        return {"protect": self.protect, "begun": self.begun, **tensors}

    @classmethod
    def of(cls, content: dict[str, Any]) -> Merging:
        """A merging that is over, from its `content`."""
        return cls(**{name: part for name, part in content.items() if name != "begun"}, rounds=int(content["begun"]))

    def follow(self, merged: Merged, last: bool = False) -> tuple[Tensor, Merging]:
        """The tokens (B, N', C) that go on after one more round, and which patch is in which of them.

        Args:
            merged: the round.
            last: no other follows, so that tokens nobody needs are dropped now.
        """
        hidden, size, valid, token = merged
        member, rounds = token.gather(1, self.member), self.rounds + 1
        if last or rounds % _STRIDE.get(hidden.device.type, _STRIDE_ELSEWHERE) == 0:
            hidden, size, valid, token = compact(hidden, size, valid)
            member = token.gather(1, member)
        return hidden, Merging(self.protect, self.real, valid, size, member, rounds)

    @property
    def bias(self) -> Tensor:
        """float32 (B, N): what is added to the scores of each key, so that it counts for all of its patches."""
        return self.size.log()

    def to_patches(self, scores: Tensor) -> Tensor:
        """Scores of tokens float32 (B, N) shared out evenly: (B, patches)."""
        return (scores / self.size.clamp(min=1)).gather(1, self.member)[:, self.protect :]

    def expand(self, features: Tensor) -> Tensor:
        """Features of tokens (B, N, D) at every patch; those of the leading tokens may be missing, here and there.

        A patch that went into a token whose feature is missing gets any.
        """
        missing = self.valid.shape[1] - features.shape[1]
        return gather(features, (self.member[:, missing:] - missing).clamp(min=0), 1)

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
