"""Where a prompt ends: the position at which the model says the first token of its answer, decided once a pass.

`generate` feeds nothing behind it but candidates of speculative decoding. Who scores or trains on given answers feeds
them too, and says where they begin by what it asks for: labels, or logits of the last positions only. Pruners, `attend`
strategies and contrasts all look from here, so that they see what they would see while the answer is written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vtokens.core.columns import last_column
from vtokens.core.later import Later
from vtokens.core.layout import Layout

_IGNORED = -100
"""What transformers' losses leave out."""


def asked_for(keep: Any, length: int) -> int:
    """The number of trailing positions that covers all logits which `logits_to_keep` asks for.

    Example: of 10 positions, logits_to_keep=3 gives 3, and torch.tensor([4, 9]) gives 6. 0 asks for all logits, which
    says nothing of where the prompt ends, and gives 1, as the last position alone does.

    Args:
        keep: a number of trailing positions, or a tensor of positions, or of bool (length,).
        length: positions fed.
    """
    if isinstance(keep, Tensor):
        places = keep.nonzero() if keep.dtype == torch.bool else keep % length
        return length - int(places.min()) if places.numel() else 1
    return min(keep, length) if isinstance(keep, int) and keep > 0 else 1


def prompt_ends(layout: Layout, asked: int, labels: Any) -> Tensor:
    """int64 (B, 1): the fed position at which the prompt of each sample ends.

    Where labels are given, that is the position before the first labelled one behind the sample's last picture; else
    the first position that logits are asked of, counted in columns. Where padding stands there, it is the last real
    position before it.

    Args:
        layout: of the pass, as it was fed.
        asked: trailing positions asked for, from `asked_for`.
        labels: int64 (B, N), or (B, R) of the last positions; None if there are none.
    """
    valid, length = layout.valid.bool(), layout.valid.shape[1]
    place = torch.arange(length, device=valid.device)
    column = place.new_full((len(valid), 1), length - asked)
    if isinstance(labels, Tensor) and labels.dim() == 2:
        given = labels.to(valid.device)[:, -length:] != _IGNORED
        given = torch.nn.functional.pad(given, (length - given.shape[1], 0), value=False)
        shown = torch.where(layout.image.to(valid.device) >= 0, place, 0).amax(1, keepdim=True)
        first = torch.where(given & (place > shown), place, length).amin(1, keepdim=True)
        column = torch.where(first < length, first - 1, column)
    return at_end(column, None, valid)


def answered_positions(layout: Layout, ends: Tensor, before: Tensor | None) -> Tensor:
    """bool (B, N): text behind the first picture of its sample, and the end of the prompt, even where that is a
    picture's.

    Args:
        layout: of the pass, as it was fed.
        ends: from `prompt_ends`.
        before: bool (B,), samples that had pictures in an earlier pass; None if none had.
    """
    shown = layout.visual.cumsum(1) > 0
    shown = shown if before is None else shown | before[:, None]
    return layout.words.scatter(1, ends, True) & layout.valid & shown


def steps(ends: Tensor, length: int) -> Tensor:
    """int64 (B, length): the end of the prompt predicts the first token, what stands behind it the next ones."""
    return (torch.arange(length, device=ends.device) - ends).clamp(min=0) + 1


def at_end(ends: Tensor, index: Tensor | None, valid: Tensor) -> Tensor:
    """int64 (B, 1): the column, of those seen, at which each prompt ends; the last one before, if that was dropped.

    Args:
        ends: from `prompt_ends`.
        index: int64 (B, W), the fed position of each column, ascending; None if they are the same.
        valid: bool (B, W), False on padding.
    """
    place = torch.arange(valid.shape[1], device=valid.device)
    before = (place if index is None else index.to(valid.device)) <= ends.to(valid.device)
    column = last_column(valid & before)
    # Nothing before it was kept: the first that was.
    return torch.where(column < 0, valid.long().argmax(1, keepdim=True), column)


def answered_counts(layout: Layout, ends: Later[Tensor], asked: int, labels: Any) -> Callable[[], tuple[int, ...]]:
    """Tells how many real positions of each sample stand behind its prompt's end; reads the device under labels."""
    if labels is None:
        return lambda: tuple(max(0, asked - 1 - trail) for trail in layout.trail)
    found: list[tuple[int, ...]] = []

    def count() -> tuple[int, ...]:
        if not found:
            valid = layout.valid.to(ends.value.device).bool()
            behind = torch.arange(valid.shape[1], device=valid.device) > ends.value
            found.append(tuple((valid & behind).sum(1).tolist()))
        return found[0]

    return count
