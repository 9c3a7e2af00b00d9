"""The body of a request, field by field: what is not here is refused, never ignored."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from vtokens.filter import ACTIONS
from vtokens.schemas.base import Keep, Schema
from vtokens.serve.adjust import Adjust
from vtokens.serve.messages import Tool, Turn

MOST_CHOICES = 8
"""The largest `n`."""
MOST_LIKELY = 20
"""The largest `top_logprobs`."""
SEEDS = 2**63 - 1
COLDEST = 1e-6
"""Temperatures below it are greedy: one logit that is 0.0001 larger than another is e**100 times as likely there."""
Action = Literal["flag", "redact", "regenerate", "abstain"]
assert Action.__args__ == ACTIONS  # type: ignore[attr-defined]


class FilterAsked(Schema):
    """What the hallucination filter does with the answer; `risk` and `threshold` exclude each other."""

    action: Annotated[
        Action,
        Field(
            description="flag marks what the pictures do not support, redact drops the sentence, regenerate writes it "
            "again, abstain says nothing at all."
        ),
    ] = "flag"
    risk: Annotated[
        float | None,
        Field(gt=0, lt=1, description="What may remain. Only of a filter that was calibrated for this very setting."),
    ] = None
    threshold: Annotated[
        float | None, Field(ge=0, le=1, description="Act above this probability; guarantees nothing.")
    ] = None


class VtokensAsked(Schema):
    """What becomes of the request's visual tokens, and of what the answer says about them."""

    strategy: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=2000,
            description="A preset's name. With --trust-request-strategy any strategy, as `cls(keep=0.25)`, "
            "`cls+fastv(layer=2)` or `none`.",
        ),
    ] = None
    keep: Annotated[
        Keep | None,
        Field(
            description="A share in (0, 1], or a count, of each picture's tokens, for the strategy that takes it; only "
            "with --trust-request-strategy.",
            json_schema_extra={
                "anyOf": [
                    {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
                    {"type": "integer", "minimum": 1},
                    {"type": "null"},
                ]
            },
        ),
    ] = None
    filter: Annotated[FilterAsked | None, Field(description="Filter this answer.")] = None
    kept: Annotated[
        bool | None, Field(description="Whether to tell which tokens of each picture were kept, as a grid.")
    ] = None


class StreamOptions(Schema):
    """How an answer is streamed."""

    include_usage: Annotated[
        bool | None, Field(description="Send `usage` in a chunk of its own, the last before [DONE].")
    ] = None
    include_obfuscation: Annotated[Literal[False] | None, Field(description="Chunks are not padded.")] = None


class TextFormat(Schema):
    """The only format of an answer."""

    type: Literal["text"]


Bias = Annotated[
    dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], Annotated[float, Field(ge=-100, le=100)]] | None,
    Field(max_length=1024, description="The number of a token, and what is added to its score before all else."),
]


class ChatRequest(Schema):
    """The body of `POST /v1/chat/completions`."""

    model: Annotated[
        str | None,
        Field(max_length=1000, description="NAME, or NAME:PRESET, as /v1/models lists them; the first by default."),
    ] = None
    messages: Annotated[list[Turn], Field(min_length=1, description="The chat so far; a user or a tool has the last.")]
    stream: Annotated[bool | None, Field(description="Send the answer as server-sent events while it is written.")] = (
        None
    )
    stream_options: Annotated[StreamOptions | None, Field(description="Only with `stream`.")] = None
    max_completion_tokens: Annotated[
        int | None, Field(ge=1, le=2**31 - 1, description="The most tokens of an answer, of the server's bound.")
    ] = None
    max_tokens: Annotated[int | None, Field(ge=1, le=2**31 - 1, description="The older name of the same.")] = None
    temperature: Annotated[
        float | None,
        Field(
            ge=0,
            le=2,
            description="0, and less than 0.000001, is greedy; by default what the model's own settings say.",
        ),
    ] = None
    top_p: Annotated[float | None, Field(gt=0, le=1, description="Sample among the likeliest of this sum.")] = None
    n: Annotated[
        int | None, Field(ge=1, le=MOST_CHOICES, description="Answers; with `seed`, the i-th has the seed `seed + i`.")
    ] = None
    stop: Annotated[
        Annotated[str, Field(min_length=1, max_length=200)]
        | Annotated[list[Annotated[str, Field(min_length=1, max_length=200)]], Field(max_length=4)]
        | None,
        Field(description="Text before which an answer ends."),
    ] = None
    seed: Annotated[
        int | None, Field(ge=0, le=SEEDS - MOST_CHOICES, description="Sampling with the same seed gives the same.")
    ] = None
    logprobs: Annotated[
        bool | None, Field(description="Give each token's log-probability (of the model, before temperature).")
    ] = None
    top_logprobs: Annotated[
        int | None, Field(ge=0, le=MOST_LIKELY, description="And those of the likeliest ones; only with `logprobs`.")
    ] = None
    tools: Annotated[list[Tool] | None, Field(min_length=1, max_length=128)] = None
    tool_choice: Annotated[
        Literal["auto", "none"] | None, Field(description="The model decides, or is told of no tools.")
    ] = None
    parallel_tool_calls: Annotated[Literal[True] | None, Field(description="How many it calls is the model's.")] = None
    user: Annotated[str | None, Field(max_length=256, description="Who asks; goes into the server's log.")] = None
    frequency_penalty: Annotated[
        float | None,
        Field(ge=-2, le=2, description="Is taken from a token's score for each time that the answer has it."),
    ] = None
    presence_penalty: Annotated[
        float | None, Field(ge=-2, le=2, description="Is taken from the score of each token that the answer has.")
    ] = None
    logit_bias: Bias = None
    response_format: TextFormat | None = None
    modalities: Annotated[list[Literal["text"]] | None, Field(min_length=1, max_length=1)] = None
    store: Annotated[Literal[False] | None, Field(description="Nothing is stored.")] = None
    service_tier: Literal["auto", "default"] | None = None
    vtokens: Annotated[VtokensAsked | None, Field(description="An extension of OpenAI's interface.")] = None

    @property
    def cold(self) -> bool:
        """Whether it asks for the likeliest tokens. Logits divided by less than `COLDEST` would be infinite."""
        return self.temperature is not None and self.temperature < COLDEST

    @property
    def adjust(self) -> Adjust | None:
        """What it adds to scores; None if it leaves them."""
        bias = tuple((int(token), value) for token, value in (self.logit_bias or {}).items() if value)
        found = Adjust(self.presence_penalty or 0.0, self.frequency_penalty or 0.0, bias)
        return None if found == Adjust() else found

    def plain(self) -> dict[str, Any]:
        """The fields that were given, without null, as JSON has them."""
        return self.model_dump(mode="json", exclude_none=True)
