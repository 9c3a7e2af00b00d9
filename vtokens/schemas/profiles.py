"""What `vtokens profile` writes and goes on with."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from .base import Count, Keep, Many, Name, Open, Place, Positive, Schema, Text


class _Middle(Open):
    median: Positive


class _Phases(Schema):
    encode: _Middle
    select: _Middle
    prefill: _Middle
    first_token: _Middle
    decode: _Middle
    per_token: _Middle
    request: _Middle


class _Ratios(Open):
    first_token: _Middle | None
    request: _Middle | None


class _Flops(Open):
    tower: Count
    projector: Count
    prefill: Count
    decode: Count
    total: Annotated[int, Field(ge=1, le=2**62)]


class _Begun(Open):
    model: Name
    strategy: Name
    name: Name
    keep: Keep
    batch: Place


class _Failed(_Begun):
    failed: Annotated[dict[Name, Text], Field(min_length=1)]


class _Measured(_Begun):
    failed: Annotated[dict[Name, Text], Field(max_length=0)]
    visual_tokens: Count
    kept_tokens: Positive
    flops: _Flops
    flops_full: _Flops
    kv_bytes: Count
    kv_bytes_full: Count
    seconds: dict[Literal["unpruned", "pruned", "ideal"], _Phases]
    tokens_per_second: dict[Name, Positive]
    speed_up: _Ratios
    of_ideal: _Ratios
    peak_bytes: dict[Name, Count]

    @model_validator(mode="after")
    def _match(self) -> _Measured:
        if set(self.tokens_per_second) != set(self.seconds):
            raise ValueError(f"tokens_per_second must be of what seconds are: {', '.join(self.seconds)}")
        return self


class _Model(Open):
    name: Name
    weights: Text
    dtype: Text
    parameters: Count


class _Conditions(Open):
    commands: Many[Text]
    load_average: dict[Name, Any]


class ProfileFile(Schema):
    """`vtokens.eval.profile_job.run`; rows that failed are measured again, whatever they hold."""

    version: Literal[1] = Field(alias="schema")
    conditions: _Conditions
    models: Many[_Model]
    rows: Many[_Failed | _Measured]
