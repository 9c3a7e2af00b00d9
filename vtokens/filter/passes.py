"""Forward passes that leave traces: reading given responses, and writing new ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image
from transformers import PreTrainedModel

from vtokens.filter.trace import Parts, Trace

Response = str | Sequence[int]
"""Text, or better the token ids that the model generated: text may be cut into other tokens than it was made of."""


def score(
    model: PreTrainedModel,
    processor: Any,
    images: Sequence[Sequence[Image.Image]],
    prompts: Sequence[str],
    responses: Sequence[Response],
    parts: Parts = Parts(),  # noqa: B008 (frozen)
) -> list[Trace]:
    """Read given responses: one teacher-forced pass for the batch, and one for each contrast in `parts`.

    Args:
        model: with whatever strategies are attached; they run as in `generate`, and the model is left as it was.
        processor: the model's.
        images: the pictures of each sample, at least one in each.
        prompts: what was asked. A question goes through the processor's chat template, behind the pictures; a text
            that holds the processor's image token is taken as it is.
        responses: one a prompt.
        parts: what the traces are to hold; `signals.parts_for` says what signals need.

    Returns:
        One trace a response.

    Raises:
        ValueError: lists of different length, a sample without picture, an empty response, or one that is longer than
            the model's context.
    """
    raise NotImplementedError


def generate(
    model: PreTrainedModel,
    processor: Any,
    images: Sequence[Sequence[Image.Image]],
    prompts: Sequence[str],
    parts: Parts = Parts(),  # noqa: B008 (frozen)
    **generate_kwargs: Any,
) -> list[Trace]:
    """Let the model write, and record it meanwhile; arguments as in `score` and as of `model.generate`.

    Where the recorder cannot follow (beams change the rows under way, assistants write several tokens at once, merged
    tokens are unmerged in every step) the finished responses are read with `score` instead.

    Returns:
        One trace a returned sequence, in their order; `trace.ids` is the response. Its trace is empty, of no tokens, if
        the model said nothing.
    """
    raise NotImplementedError
