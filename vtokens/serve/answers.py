"""The bodies of answers, field by field, as OpenAI's clients read them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

Finish = Literal["stop", "length", "tool_calls"]


class Mark(BaseModel):
    """Something in an answer that the pictures do not support."""

    start: Annotated[int, Field(description="Of the answer's characters; where nothing is left of it, where it stood.")]
    end: int
    probability: Annotated[float, Field(description="That it is not supported; uncalibrated, a score that only ranks.")]
    text: Annotated[str, Field(description="As the model wrote it.")]
    what: Literal["flagged", "redacted", "regenerated", "abstained"]


class Verdict(BaseModel):
    """What the hallucination filter found, and did."""

    action: str
    threshold: Annotated[float | None, Field(description="What probabilities, or scores, are compared with.")] = None
    calibrated: Annotated[bool, Field(description="Whether probabilities were learnt on answers of this model.")]
    guarantee: Annotated[str | None, Field(description="What is guaranteed, and under which assumptions.")] = None
    marks: list[Mark]


class ShownPicture(BaseModel):
    """Which tokens of a picture, or of a frame of a video, were kept."""

    grid: Annotated[list[int], Field(description="Rows and columns of its tokens.")]
    seen: Annotated[list[float], Field(description="Left, top, width and height of what the model sees, as shares.")]
    light: Annotated[list[list[float]], Field(description="The share of layers that saw each token, a list a row.")]
    frame: Annotated[int | None, Field(description="Of a video, in the order in which frames were taken.")] = None


class VtokensAnswer(BaseModel):
    """What became of the request's visual tokens."""

    strategy: str
    image_tokens: Annotated[int, Field(description="Visual tokens of the prompt.")]
    kept: Annotated[int, Field(description="How many of them decoder layers saw, on average.")]
    flops_saved: Annotated[float, Field(description="Of the prompt's decoder FLOPs, the share that was not spent.")]
    choices: Annotated[list[str] | None, Field(description="What `auto` stands for, and why.")] = None
    filter: Verdict | None = None
    pictures: list[ShownPicture] | None = None
    untold: Annotated[str | None, Field(description="Why what was kept cannot be shown.")] = None


class Usage(BaseModel):
    """Tokens that were fed to the decoder, and generated."""

    prompt_tokens: Annotated[
        int, Field(description="Fed to the decoder's layers, on average: text, and the visual tokens that were kept.")
    ]
    completion_tokens: int
    total_tokens: int


class Likely(BaseModel):
    """A token and its log-probability."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(Likely):
    """A token of the answer."""

    top_logprobs: list[Likely]


class Logprobs(BaseModel):
    """Of the tokens of the answer, or of a piece of it."""

    content: list[TokenLogprob]


class MadeFunction(BaseModel):
    """A function that is called."""

    name: str
    arguments: str


class MadeCall(BaseModel):
    """A tool that is called."""

    index: Annotated[int | None, Field(description="Only while streaming.")] = None
    id: str
    type: Literal["function"] = "function"
    function: MadeFunction


class Delta(BaseModel):
    """A piece of an answer."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[MadeCall] | None = None


class AnswerMessage(Delta):
    """An answer."""

    vtokens: Annotated[Verdict | None, Field(description="The filter's verdict.")] = None


class Choice(BaseModel):
    """One of `n` answers."""

    index: int
    message: AnswerMessage
    finish_reason: Finish
    logprobs: Logprobs | None = None


class ChunkChoice(BaseModel):
    """A piece of one of `n` answers."""

    index: int
    delta: Delta
    finish_reason: Finish | None = None
    logprobs: Logprobs | None = None


class ChatAnswer(BaseModel):
    """The body of an answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    vtokens: VtokensAnswer


class ChatChunk(BaseModel):
    """The data of a server-sent event."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None
    vtokens: VtokensAnswer | None = None


class ErrorFacts(BaseModel):
    """What is wrong."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorAnswer(BaseModel):
    """The body of a refusal, and of an error inside a stream."""

    error: ErrorFacts
