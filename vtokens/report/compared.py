"""What one strategy did with a question, beside the others of a comparison."""

from __future__ import annotations

from dataclasses import dataclass, field

from PIL import Image


@dataclass(frozen=True)
class Compared:
    """What one strategy did with the question.

    Attributes:
        strategy: with all its settings, as text; "none" is the model as it is.
        title: the strategy as it was asked for, and its keep.
        answer: what the model says.
        tokens: visual tokens per decoder layer, averaged; `full` of them there are.
        first_token: seconds to the first token, the median of three; `first_token_full` those of the plain model.
        select_seconds: of them for scoring and selecting.
        flops, flops_full, kv_bytes, kv_bytes_full: of the prefill, as run and unpruned.
        drawn: each picture with what was dropped dimmed (PIL); the picture alone where that cannot be drawn.
        untold: why it cannot; "" where it can.
    """

    strategy: str
    title: str
    answer: str
    tokens: float
    full: int
    first_token: float
    first_token_full: float
    select_seconds: float
    flops: int
    flops_full: int
    kv_bytes: int
    kv_bytes_full: int
    drawn: tuple[Image.Image, ...] = field(repr=False)
    untold: str = ""
