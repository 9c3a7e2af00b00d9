"""What `vtokens eval` writes and reads again; docs/results-format.md says what the fields mean."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from .base import Count, Keep, Many, Name, Number, Open, Place, Positive, Schema, Size, Text

_Seed = Annotated[int, Field(ge=0, le=2**62)]


class CellEntry(Schema):
    """`vtokens.eval.cells.Cell`."""

    cell: Name
    strategy: Name
    name: Name
    keep: Keep
    seed: _Seed
    recipe: Name = "none"


class _Task(Schema):
    samples: Annotated[int, Field(ge=1, le=2**40)]
    hash: dict[Name, Text]
    metrics: dict[Name, bool | None]


class ManifestFile(Schema):
    """`vtokens.eval.new_manifest.build`."""

    version: Literal[1] = Field(alias="schema")
    id: Text
    created: Text
    command: Text
    commit: Text = ""
    versions: dict[Name, Any]
    hardware: dict[Name, Any]
    model: dict[Name, Any]
    budget: Text
    settings: dict[Name, Any]
    tasks: dict[Name, _Task]
    cells: Many[CellEntry]


class AnswerLine(Schema):
    """`vtokens.eval.journal.Answer`."""

    task: Name
    doc: Count
    text: Text
    output_tokens: Count
    prompt_tokens: Count
    visual_tokens: Count
    kept_tokens: Positive
    flops: Count
    flops_full: Count
    kv_bytes: Count
    kv_bytes_full: Count
    encode: Positive
    select: Positive
    prefill: Positive
    decode: Positive
    batch: Place
    kept: Many[Size] | None
    grid: Annotated[list[Annotated[Size, Field(ge=1)]], Field(min_length=2, max_length=2)] | None

    @model_validator(mode="after")
    def _drawn(self) -> AnswerLine:
        if self.grid is not None and self.grid[0] * self.grid[1] > 2**24:
            raise ValueError(f"grid: {self.grid[0]} x {self.grid[1]} cells are too many")
        return self


class SampleLine(AnswerLine):
    """An answer with its question and its score."""

    cell: Name
    question: Any
    target: Any
    correct: bool | None
    metrics: dict[Name, Number | None]


class ResultLine(Open):
    """A metric of a cell."""

    cell: Name
    name: Name
    keep: Keep
    seed: _Seed
    task: Name
    metric: Name
    value: Number | None = None
    low: Number | None = None
    high: Number | None = None
    n: Count


class SummaryRow(Open):
    """A metric over the seeds."""

    name: Name
    keep: Keep
    task: Name
    metric: Name
    seeds: Count
    value: Number | None = None
    low: Number | None = None
    high: Number | None = None
    n: Count
