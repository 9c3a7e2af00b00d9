"""Asking a model questions under a strategy, with what the strategy kept and how long it took."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import vtokens
from vtokens import scenes


@dataclass(frozen=True)
class Asked:
    """Replies, and for each example the visual tokens that a decoder layer sees on average.

    `seconds` is the processor time of the whole.
    """

    texts: list[str]
    tokens: list[float]
    seconds: float


def ask(
    model: Any, processor: Any, spec: str, examples: Sequence[scenes.Example], batch_size: int = 32, **options: Any
) -> Asked:
    """Greedy answers of `model` under `spec` (given as to `vtokens.attach`), in the order of `examples`."""
    texts, tokens, begin = list[str](), list[float](), time.process_time()
    with vtokens.attach(model, spec, **options) as handle:
        for start in range(0, len(examples), batch_size):
            part = examples[start : start + batch_size]
            texts += scenes.answer(model, processor, part, batch_size)
            tokens += [sample.average_tokens for sample in handle.report().samples]
    return Asked(texts, tokens, time.process_time() - begin)
