"""Judging sentences while the model still writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria

from vtokens.core.weights import input_device
from vtokens.filter.mentions.base import Splitter
from vtokens.filter.trace.assemble import Places, assemble
from vtokens.filter.trace.prompts import prompt_inputs
from vtokens.filter.trace.recorder import Tape, recording
from vtokens.filter.trace.trace import Parts, Trace
from vtokens.loading.context import check_room, context_of
from vtokens.loading.media import Medium
from vtokens.loading.responses import response_lengths

Heard = Callable[[Trace, int], bool]
"""Called with the response so far and how many of its sentences are complete; returns whether to stop."""


class Sentences(StoppingCriteria):
    """Calls `heard` each time a sentence is complete: when the next one has begun.

    Args:
        prompt: tokens before the response.
        split: of the extractor.
        decode: from ids to text.
        trace: from all ids so far to the trace of the response.
        heard: decides whether to go on.
    """

    def __init__(
        self,
        prompt: int,
        split: Splitter,
        decode: Callable[[list[int]], str],
        trace: Callable[[Tensor], Trace],
        heard: Heard,
    ) -> None:
        self._prompt, self._split, self._decode, self._trace, self._heard = prompt, split, decode, trace, heard
        self._complete = 0

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Whether generation is to stop now: bool (1,)."""
        complete = len(self._split(self._decode(input_ids[0, self._prompt :].tolist()))) - 1
        stop = False
        if complete > self._complete:
            self._complete = complete
            stop = self._heard(self._trace(input_ids), complete)
        return torch.tensor([stop], device=input_ids.device)


@torch.no_grad()
def listen(
    model: Any,
    processor: Any,
    images: Sequence[Medium],
    prompt: str,
    parts: Parts,
    split: Splitter,
    heard: Heard,
    **generate_kwargs: Any,
) -> Trace | None:
    """Let the model answer one prompt, and call `heard` after each sentence.

    Returns:
        The trace of the whole response; None if it said nothing.

    Raises:
        ValueError: the recorder cannot follow: beams, assistants, merged tokens that are unmerged in every step, or
            signals that cost passes of their own.
    """
    if parts.passes:
        raise ValueError(
            f"these signals need {parts.passes} more passes over the whole response, so that they cannot judge it "
            "while it is written: take signals='fast', or generate()"
        )
    inputs = prompt_inputs(processor, [images], [prompt], input_device(model))
    check_room(inputs["input_ids"].shape[1], 1, context_of(model))
    length = inputs["input_ids"].shape[1]
    tokenizer = getattr(processor, "tokenizer", processor)
    with recording(model, parts) as (tape, handle):

        def trace(sequences: Tensor) -> Trace:
            return _trace(model, tape, handle.record, sequences, length, generate_kwargs)

        def decode(ids: list[int]) -> str:
            return str(tokenizer.decode(ids, skip_special_tokens=True).strip())

        criteria = [*(generate_kwargs.pop("stopping_criteria", None) or ())]
        criteria.append(Sentences(length, split, decode, trace, heard))
        output = model.generate(**inputs, stopping_criteria=criteria, **generate_kwargs)
        found = trace(getattr(output, "sequences", output))
    return found if len(found) else None


def _trace(model: Any, tape: Tape, record: Any, sequences: Tensor, prompt: int, options: dict[str, Any]) -> Trace:
    if not tape.follows(sequences, done=False):
        raise ValueError(
            "the response cannot be judged while it is written: with beams, an assistant, unmerged tokens, or layers "
            "that cache no keys of heads take generate() instead"
        )
    likely = tape.likelihood(sequences)
    ids = sequences[:, prompt:]
    said = response_lengths(model, ids, options)
    [found] = assemble(tape, Places(record, ids.device), ids, said, likely, model.get_output_embeddings())
    return found
