"""Forward passes that leave traces: reading given responses, and writing new ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from vtokens.adapters import adapter_for
from vtokens.core.weights import input_device
from vtokens.engine.attach import attachment
from vtokens.filter.trace.assemble import Places, assemble
from vtokens.filter.trace.contrast import contrast
from vtokens.filter.trace.measure import Likelihood, likelihood
from vtokens.filter.trace.prompts import Response, ResponseBatch, batch, prompt_inputs
from vtokens.filter.trace.recorder import recording
from vtokens.filter.trace.trace import Parts, Trace
from vtokens.loading.context import check_room, context_of
from vtokens.loading.media import Medium
from vtokens.loading.responses import response_lengths
from vtokens.strategies.base import needs_of

NOTHING = Parts()


class Unchecked(NamedTuple):
    """A response that nothing was recorded of: its ids, int64 (T,), and the entropy of its first token, in nats."""

    ids: Tensor
    entropy: float


def check(model: PreTrainedModel, parts: Parts = NOTHING) -> None:
    """Raise `ValueError` if what runs on a model cannot be recorded beside, when it writes or when it reads."""
    with recording(model, parts, 1):
        pass
    with recording(model, Parts() if _unmerges(model) else parts):
        pass


@torch.no_grad()
def score(
    model: PreTrainedModel,
    processor: Any,
    images: Sequence[Sequence[Medium]],
    prompts: Sequence[str],
    responses: Sequence[Response],
    parts: Parts = NOTHING,
) -> list[Trace]:
    """Read given responses: one teacher-forced pass for the batch, and one for each contrast in `parts`.

    Args:
        model: with whatever strategies are attached; they run as in `generate`, and the model is left as it was.
        processor: the model's.
        images: the pictures and videos (`vtokens.video.Clip`) of each sample, at least one in each, in the order in
            which they are shown. Where the model's processor has no video part, frames are shown as pictures.
        prompts: what was asked. A question goes through the processor's chat template, behind the pictures; a text
            that holds the processor's image or video token is taken as it is.
        responses: one a prompt.
        parts: what the traces are to hold; `signals.parts_for` says what signals need.

    Returns:
        One trace a response.

    Raises:
        ValueError: lists of different length, a sample without picture, an empty response, or one that is longer than
            the model's context.
    """
    adapter = adapter_for(model)
    inputs = prompt_inputs(processor, images, prompts, input_device(model))
    return _read(model, batch(adapter, processor, inputs, responses), parts)


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    processor: Any,
    images: Sequence[Sequence[Medium]],
    prompts: Sequence[str],
    parts: Parts = NOTHING,
    **generate_kwargs: Any,
) -> list[Trace]:
    """Let the model write, and record it meanwhile; arguments as in `score` and as of `model.generate`.

    Where the recorder cannot follow (beams change the rows under way, assistants write several tokens at once, merged
    tokens are unmerged in every step) the finished responses are read as in `score`.

    Returns:
        One trace a returned sequence, in their order; `trace.ids` is the response. Its trace is empty, of no tokens, if
        the model said nothing.
    """
    return cast(list[Trace], gated(model, processor, images, prompts, parts, None, **generate_kwargs))


@torch.no_grad()
def gated(
    model: PreTrainedModel,
    processor: Any,
    images: Sequence[Sequence[Medium]],
    prompts: Sequence[str],
    parts: Parts,
    gate: Callable[[Tensor], bool] | None,
    **generate_kwargs: Any,
) -> list[Trace | Unchecked]:
    """As `generate`; but `gate` is told the entropies (rows,) of the first tokens, in nats, once the prompts were read.

    If it says yes nothing more is noted, and `Unchecked` comes back in place of traces. That reads the device once.
    """
    inputs = prompt_inputs(processor, images, prompts, input_device(model))
    check_room(inputs["input_ids"].shape[1], 1, context_of(model))
    unmerges = _unmerges(model)
    with recording(model, Parts() if unmerges else parts) as (tape, handle):
        tape.gate = gate
        sequences = _sequences(cast(Any, model).generate(**inputs, **generate_kwargs))
        record = handle.record
    copies = len(sequences) // len(prompts)
    if copies > 1:
        each = [number for number in range(len(prompts)) for _ in range(copies)]
        inputs = prompt_inputs(processor, [images[i] for i in each], [prompts[i] for i in each], input_device(model))
    given = _responses(model, inputs, sequences, generate_kwargs)
    if tape.first is not None and gate is not None and not tape.fed:
        first = tape.first.view(len(prompts), -1)[:, 0].tolist()
        rows = zip(given.responses, given.lengths, strict=True)
        return [Unchecked(row[:length], first[number // copies]) for number, (row, length) in enumerate(rows)]
    if unmerges or not tape.follows(sequences):
        return [*_read(model, given, parts)]
    assert record is not None
    likely, places = tape.likelihood(sequences), Places(record, sequences.device)
    head = model.get_output_embeddings()
    traces = assemble(tape, places, sequences[:, -likely.logprob.shape[1] :], given.lengths, likely, head)
    return [*contrast(model, given, tape, places, traces)]


def _unmerges(model: PreTrainedModel) -> bool:
    """Whether merged tokens are unmerged in every step."""
    taken = attachment(model)
    acting = () if taken is None else taken.running_now
    facts = adapter_for(model).facts if acting else None
    return any(needs_of(strategy, facts).unmerges for strategy in acting if facts is not None)


def _read(model: PreTrainedModel, given: ResponseBatch, parts: Parts) -> list[Trace]:
    with recording(model, parts, given.responses.shape[1]) as (tape, handle):
        logits = given.predicted(cast(Any, model)(**given.full(tape.adapter)))
        record = handle.record
    assert record is not None
    tape.look()
    found = likelihood(logits.flatten(0, 1), given.responses.flatten())
    likely = Likelihood(*(part.view(given.responses.shape) for part in found))
    places = Places(record, given.responses.device)
    traces = assemble(tape, places, given.responses, given.lengths, likely, model.get_output_embeddings())
    return contrast(model, given, tape, places, traces)


def _sequences(output: Any) -> Tensor:
    sequences: Tensor = getattr(output, "sequences", output)
    return sequences


def _responses(model: Any, inputs: dict[str, Any], sequences: Tensor, options: dict[str, Any]) -> ResponseBatch:
    """What `generate` returned, cut where each response ends."""
    said = sequences[:, inputs["input_ids"].shape[1] :]
    real = response_lengths(model, said, options)
    return ResponseBatch(inputs, said[:, : max(1, *real)], tuple(real))
