"""What a request adds to scores and takes from them: OpenAI's penalties, and biases of single tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Adjust:
    """Changes the scores of one row before temperature and all else.

    Of token j, written c[j] times in the answer so far, OpenAI's documentation of the parameters has

        score[j] - c[j] * frequency - (c[j] > 0) * presence + bias[j]

    Attributes:
        presence: is taken from tokens that the answer has.
        frequency: is taken for each time that it has them.
        bias: tokens, and what is added to them.
    """

    presence: float = 0.0
    frequency: float = 0.0
    bias: tuple[tuple[int, float], ...] = ()

    def check(self, vocabulary: int) -> None:
        """Raise `ValueError` for a token that is not among so many."""
        for token, _ in self.bias:
            if not 0 <= token < vocabulary:
                raise ValueError(f"token {token} is not there: this model has the tokens 0 to {vocabulary - 1}")

    def __call__(self, scores: Tensor, written: Tensor) -> Tensor:
        """Other scores (1, V), by the answer so far, int64 (n,)."""
        scores = scores.clone()
        if self.bias:
            tokens = torch.tensor([token for token, _ in self.bias], device=scores.device)
            scores[0, tokens] += scores.new_tensor([value for _, value in self.bias])
        if len(written) and (self.presence or self.frequency):
            counts = torch.zeros_like(scores[0]).index_add_(0, written, scores.new_ones(len(written)))
            scores -= self.frequency * counts + self.presence * (counts > 0)
        return scores
