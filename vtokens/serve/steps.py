"""What happens to each row of a batch at each step of `generate`: which token is next, and whether it was the last."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, StoppingCriteria

from vtokens.serve.rows import Row


class Choose(LogitsProcessor):
    """Makes the next token of each row the likeliest one, by the row's own settings and its own generator.

    `generate` then takes it by greedy search, whether it was drawn or not. A drawn token is the one that `generate`
    draws after `torch.manual_seed(seed)` where the row is alone.

    Args:
        rows: of the batch, whose tokens are the last ones of those given.

    Attributes:
        of: the rows whose probabilities are asked for at this step.
        logprobs: float32 (len(of), V), theirs, as the model gave them; None if none are.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows
        self._asked = [number for number, row in enumerate(rows) if row.answering.job.logprobs is not None]
        self.of: list[int] = []
        self.logprobs: Tensor | None = None

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Args and returns: int64 (B, N) the tokens so far, float32 (B, V) their logits, which are changed in place."""
        self.of = [number for number in self._asked if not self._rows[number].ended]
        self.logprobs = scores[self.of].log_softmax(-1) if self.of else None  # before any of it is changed
        for number, row in enumerate(self._rows):
            if row.ended:
                continue
            own, forced = scores[number : number + 1], row.forced()
            adjust = row.answering.job.adjust
            if not row.decoding.processors and row.generator is None and forced is None and adjust is None:
                continue
            if adjust is not None:
                own = adjust(own, input_ids[number, input_ids.shape[1] - row.at :])
            if row.decoding.processors:
                own = row.decoding.processors(input_ids[number : number + 1, -row.length - row.at :], own)
            if row.generator is not None:
                drawn = torch.multinomial(own.softmax(-1), 1, generator=row.generator)
                own = torch.full_like(own, -torch.inf).scatter_(1, drawn, 0.0)
            if forced is not None:
                own = torch.full_like(own, -torch.inf)
                own[0, forced] = 0.0
            scores[number] = own[0]
        return scores


class Watch(StoppingCriteria):
    """Hands each row its token and says which rows have ended.

    Args:
        rows: of the batch.
        choose: what chose the tokens.
        first: called once, when the prompts have been read; None if they were.
    """

    def __init__(self, rows: Sequence[Row], choose: Choose, first: Callable[[], None] | None) -> None:
        self._rows, self._choose = rows, choose
        self._first = first

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """Args and returns: int64 (B, N) the tokens so far, nothing; bool (B,) which rows have ended."""
        tokens = input_ids[:, -1]
        logprobs = self._logprobs(tokens)
        now, ids = time.monotonic(), tokens.tolist()
        first, self._first = self._first, None
        if first is not None:
            first()
        for number, (row, token) in enumerate(zip(self._rows, ids, strict=True)):
            if not row.ended and not row.check(now):
                row.push(token, *logprobs.get(number, (None, ())))
        return torch.tensor([row.ended for row in self._rows], device=input_ids.device)

    def _logprobs(self, tokens: Tensor) -> dict[int, tuple[float, tuple[tuple[int, float], ...]]]:
        """Row -> the log probability of its token, and the likeliest tokens with theirs."""
        known, of = self._choose.logprobs, self._choose.of
        if known is None:
            return {}
        counts = [self._rows[number].answering.job.logprobs or 0 for number in of]
        own = known.gather(1, tokens[of, None].to(known.device))[:, 0].tolist()
        top = known.topk(min(max(counts), known.shape[-1]))
        places, values = top.indices.tolist(), top.values.tolist()
        return {
            number: (own[at], tuple(zip(places[at][:count], values[at][:count], strict=True)))
            for at, (number, count) in enumerate(zip(of, counts, strict=True))
        }
