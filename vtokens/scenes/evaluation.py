"""Asking a model all questions of a list of examples, and counting what it gets right."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from vtokens.core.prompts import chat_text, encode_prompts, question_prompt
from vtokens.core.wilson import wilson_bounds
from vtokens.video.clip import arguments

from .clips.sampling import ClipExample
from .sampling import Example, score
from .stories import STORIES


@dataclass(frozen=True)
class Accuracy:
    """`correct` of `n` answers were right: `share`, with its 95% Wilson interval from `low` to `high` (all 0-1)."""

    n: int
    correct: int
    share: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.share:.3f} [{self.low:.3f}, {self.high:.3f}] (n={self.n})"


def accuracy(correct: int, n: int) -> Accuracy:
    """The share of `correct` in `n` with its Wilson score interval (Wilson, 1927).

    Raises ValueError unless 0 <= correct <= n and n >= 1.
    """
    return Accuracy(n, correct, correct / n, *wilson_bounds(correct, n))


def answer(
    model: Any,
    processor: Any,
    examples: Sequence[Example | ClipExample],
    batch_size: int = 32,
    max_new_tokens: int | None = None,
) -> list[str]:
    """The model's greedy answers, in the order of `examples`: the processor, model.generate, nothing else.

    max_new_tokens: None for the model's own limit. Raises ValueError for batch_size < 1, and for clips where the
    processor takes no videos.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    limit = {} if max_new_tokens is None else {"max_new_tokens": max_new_tokens}
    found = [""] * len(examples)
    for part in _batches(examples, batch_size):
        inputs = encoded(processor, [examples[i] for i in part]).to(model.device)
        tokens = model.generate(**inputs, do_sample=False, **limit)
        texts = processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        for i, text in zip(part, texts, strict=True):
            found[i] = text.strip()
    return found


def _batches(examples: Sequence[Example | ClipExample], size: int) -> Iterator[list[int]]:
    """The numbers of the examples of each batch: of pictures, or of clips of one length."""
    groups: dict[int, list[int]] = defaultdict(list)
    for number, one in enumerate(examples):
        groups[one.scene.frames if isinstance(one, ClipExample) else 0].append(number)
    for group in groups.values():
        # Captions last: a batch runs until its longest answer ends.
        order = sorted(group, key=lambda i: examples[i].kind in ("caption", *STORIES))
        for start in range(0, len(order), size):
            yield order[start : start + size]


def encoded(processor: Any, part: Sequence[Example | ClipExample]) -> Any:
    """The processor's output for questions about pictures alone, or about clips alone.

    Raises ValueError for clips where the processor takes no videos.
    """
    pictures = [one for one in part if isinstance(one, Example)]
    if pictures:
        texts = [question_prompt(processor, one.question, len(one.images)) for one in pictures]
        return encode_prompts(processor, texts, [one.images for one in pictures])
    clips = [one for one in part if isinstance(one, ClipExample)]
    if getattr(processor, "video_processor", None) is None:
        raise ValueError(
            f"{type(processor).__name__} takes no videos: questions about clips are for models that see them"
        )
    video = {"type": "video"}
    chats = [[{"role": "user", "content": [video, {"type": "text", "text": one.question}]}] for one in clips]
    texts = [chat_text(processor, chat) for chat in chats]
    return encode_prompts(processor, texts, **arguments([one.video for one in clips]))


def evaluate(
    model: Any, processor: Any, examples: Sequence[Example | ClipExample], batch_size: int = 32
) -> dict[str, Accuracy]:
    """Accuracy per kind, and over all examples under 'overall'. Raises ValueError for an empty list."""
    if not examples:
        raise ValueError("examples is empty; vtokens.scenes.examples() draws some")
    right: dict[str, list[bool]] = defaultdict(list)
    for example, text in zip(examples, answer(model, processor, examples, batch_size), strict=True):
        for key in (example.kind, "overall"):
            right[key].append(score(text, example))
    return {kind: accuracy(sum(hits), len(hits)) for kind, hits in right.items()}
