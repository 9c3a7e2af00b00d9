"""Words that a retry must not write again."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor


class Banned(LogitsProcessor):
    """Keeps each sample from writing some sequences of tokens, by making the last token of each impossible.

    Args:
        sequences: for each sample the sequences it must not write, as token ids.
        device: the model's.
        copies: rows of the batch a sample, its beams.
    """

    def __init__(
        self, sequences: Sequence[Sequence[Sequence[int]]], device: torch.device | str, copies: int = 1
    ) -> None:
        rows = [(row, list(one)) for row, some in enumerate(sequences) for one in some if one]
        rows = [(row * copies + copy, one) for row, one in rows for copy in range(copies)]
        self._most = max((len(one) for _, one in rows), default=1) - 1
        pad = [[-1] * (self._most + 1 - len(one)) + one for _, one in rows]
        table = torch.tensor(pad, dtype=torch.long, device=device).view(len(rows), self._most + 1)
        self._row = torch.tensor([row for row, _ in rows], dtype=torch.long, device=device)
        self._before, self._last = table[:, :-1], table[:, -1]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(rows, V) scores, -inf for a token that would complete a sequence."""
        recent = input_ids[:, max(0, input_ids.shape[1] - self._most) :] if self._most else input_ids[:, :0]
        recent = torch.nn.functional.pad(recent, (self._most - recent.shape[1], 0), value=-2)[self._row]
        written = ((recent == self._before) | (self._before < 0)).all(1)
        bias = torch.zeros_like(self._last, dtype=scores.dtype).masked_fill(written, -torch.inf)
        # Added, since several sequences of a sample may end in the same token.
        return scores.index_put((self._row, self._last), bias, accumulate=True)
