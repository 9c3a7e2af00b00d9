"""Asking a model questions under a strategy, with what the strategy kept and how long it took."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import vtokens
from vtokens import scenes
from vtokens.core.jsonlines import JsonLines, read_lines
from vtokens.scenes.smol.folder import digest
from vtokens.strategies.spec import Spec

_LINE = 1 << 20  # bytes of a batch's line, at most


@dataclass(frozen=True)
class Asked:
    """Replies, and for each example the visual tokens that a decoder layer sees on average.

    `figures` are what the strategies tell of themselves, averaged over batches; `seconds` is the processor time.
    """

    texts: list[str]
    tokens: list[float]
    figures: dict[str, float]
    seconds: float


def loaded(name: str, dtype: str) -> tuple[Any, Any, str]:
    """A model to ask, its processor, and the digest of its weights, by which replies are kept.

    name: an embedded model, or the folder of one that another seed of a recipe gave.
    """
    model, processor = vtokens.load(name, strategy="none", dtype=getattr(torch, dtype))
    vtokens.detach(model)
    folder = scenes.embedded_path(name) if name in scenes.embedded_models() else Path(name)
    return model.eval(), processor, digest(folder / "model.safetensors")


def called(models: Sequence[str]) -> dict[str, str]:
    """What each model is called in a table: an embedded one by its name, a folder by its last part.

    Raises:
        ValueError: two are called the same.
    """
    names = [Path(model).name for model in models]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"{', '.join(models)}: two are called {', '.join(twice)} in the table; rename a folder")
    return dict(zip(models, names, strict=True))


def ask(
    model: Any,
    processor: Any,
    spec: Spec,
    examples: Sequence[scenes.Example],
    batch_size: int = 32,
    *,
    journal: Path | None = None,
    longest: int | None = None,
    again: Callable[[scenes.Example], tuple[str, int]] | None = None,
    **options: Any,
) -> Asked:
    """Greedy answers of `model` under `spec` (given as to `vtokens.attach`), in the order of `examples`.

    journal: a file of JSON lines, one a batch, which a run that was stopped goes on from; its name has to say what was
    asked of what (`journal_at`). longest: tokens of an answer at most, None for the model's own limit. again: asks one
    example and says how often a prompt was read, a recipe; tokens are those of its last prompt, `figures` has passes.
    """
    found = _batches(journal)
    with ExitStack() as stack:
        handle = stack.enter_context(vtokens.attach(model, spec, **options))
        lines = None if journal is None else stack.enter_context(closing(JsonLines(journal)))
        for start in range(len(found) * batch_size, len(examples), batch_size):
            part = examples[start : start + batch_size]
            found.append(
                _ask(model, processor, handle, part, longest) if again is None else _ask_again(handle, part, again)
            )
            if lines is not None:
                lines.put([asdict(found[-1])], "every batch so far is kept")
    names = dict.fromkeys(name for one in found for name in one.figures)
    told = {name: [one.figures[name] for one in found if name in one.figures] for name in names}
    return Asked(
        [text for one in found for text in one.texts],
        [tokens for one in found for tokens in one.tokens],
        {name: sum(values) / len(values) for name, values in told.items()},
        sum(one.seconds for one in found),
    )


def journal_at(folder: Path, **asked: Any) -> Path:
    """The journal of what is asked under these conditions, whose values JSON holds; the folder is made."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:20]}.jsonl"


def _ask(model: Any, processor: Any, handle: Any, part: Sequence[scenes.Example], longest: int | None) -> Asked:
    begin = time.process_time()
    texts = scenes.answer(model, processor, part, len(part), longest)
    seconds, report = time.process_time() - begin, handle.report()
    # `answer` puts captions last; the report's samples come in the order they were asked.
    order = sorted(range(len(part)), key=lambda i: part[i].kind in ("caption", *scenes.STORIES))
    seen = dict(zip(order, (sample.average_tokens for sample in report.samples), strict=True))
    told: dict[str, list[float]] = {}
    for contribution in report.contributions:
        for name, value in contribution.figures.items():
            told.setdefault(name, []).append(value)
    figures = {name: sum(values) / len(values) for name, values in told.items()}
    return Asked(texts, [seen[i] for i in range(len(part))], figures, seconds)


def _ask_again(handle: Any, part: Sequence[Any], again: Callable[[Any], tuple[str, int]]) -> Asked:
    begin, texts, tokens, passes = time.process_time(), list[str](), list[float](), 0
    for example in part:
        text, count = again(example)
        seen = [sample.average_tokens for sample in handle.report().samples]
        texts, tokens, passes = [*texts, text], [*tokens, sum(seen) / len(seen)], passes + count
    return Asked(texts, tokens, {"passes": passes / len(part)}, time.process_time() - begin)


def _batches(journal: Path | None) -> list[Asked]:
    if journal is None or not journal.exists():
        return []
    return list(read_lines(journal, _LINE, lambda text: Asked(**json.loads(text)), "is no batch ({}): delete the file"))
