"""Asking a model questions under a strategy, with what the strategy kept and how long it took."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import vtokens
from vtokens import scenes
from vtokens.strategies.spec import Spec


@dataclass(frozen=True)
class Asked:
    """Replies, and for each example the visual tokens that a decoder layer sees on average.

    `figures` are what the strategies tell of themselves, averaged over batches; `seconds` is the processor time.
    """

    texts: list[str]
    tokens: list[float]
    figures: dict[str, float]
    seconds: float


def ask(
    model: Any, processor: Any, spec: Spec, examples: Sequence[scenes.Example], batch_size: int = 32, **options: Any
) -> Asked:
    """Greedy answers of `model` under `spec` (given as to `vtokens.attach`), in the order of `examples`."""
    texts, tokens, told = list[str](), list[float](), dict[str, list[float]]()
    begin = time.process_time()
    with vtokens.attach(model, spec, **options) as handle:
        for start in range(0, len(examples), batch_size):
            part = examples[start : start + batch_size]
            texts += scenes.answer(model, processor, part, batch_size)
            report = handle.report()
            # `answer` puts captions last; the report's samples come in the order they were asked.
            order = sorted(range(len(part)), key=lambda i, part=part: part[i].kind == "caption")
            seen = dict(zip(order, (sample.average_tokens for sample in report.samples), strict=True))
            tokens += [seen[i] for i in range(len(part))]
            for part_report in report.contributions:
                for name, value in part_report.figures.items():
                    told.setdefault(name, []).append(value)
    figures = {name: sum(values) / len(values) for name, values in told.items()}
    return Asked(texts, tokens, figures, time.process_time() - begin)
