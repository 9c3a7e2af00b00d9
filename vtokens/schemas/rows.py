"""What the data-set filter reads again, line by line, and labelled records."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, RootModel, StrictInt, StrictStr, model_validator

from .base import Count, Finite, Many, Name, Number, Open, Place, Schema, Share, Text, Value

_Kind = Literal["object", "attribute", "count", "relation", "text"]


class _Mention(Schema):
    start: Count
    end: Count
    text: Text
    kind: _Kind
    name: Text
    sentence: Count = 0
    order: Count = 0
    repeat: bool = False
    negated: bool = False
    tokens: Annotated[Many[Count], Field(default_factory=list)]


class RecordLine(Schema):
    """`vtokens.filter.Record`."""

    image: StrictStr | StrictInt
    prompt: Text
    response: Text
    mentions: Many[_Mention]
    signals: dict[Text, Many[Finite]]
    labels: Many[bool]
    meta: dict[Text, Any]


class SettingsFile(RootModel[dict[Name, Value]]):
    """What a run of the data-set filter was begun with; which settings there are is the caller's business."""


class _Judged(Schema):
    start: Count
    end: Count
    text: Text
    kind: _Kind
    name: Text
    negated: bool
    sentence: Count
    p: Share
    flagged: bool


class _Sentence(Schema):
    start: Count
    end: Count
    text: Text
    p: Share
    mentions: Many[Count]


class _Edit(Schema):
    what: Literal["redacted", "regenerated", "abstained"]
    before: Text
    after: Text
    p: Share
    by: Text
    sentence: Count | None = None


class _Found(Schema):
    line: Place
    field: Name
    draft: Text
    action: Literal["flag", "redact", "abstain"]
    calibrated: bool
    threshold: Number | None
    mentions: Many[_Judged]
    sentences: Many[_Sentence]
    edits: Many[_Edit]
    unjudged: Many[Text] = Field(default_factory=list)
    notes: Many[Text] = Field(default_factory=list)


class FilteredLine(Open):
    """A row of the input, with what was found of it under "filter"."""

    found: Annotated[_Found, Field(alias="filter")]

    @model_validator(mode="after")
    def _whole(self) -> FilteredLine:
        if self.found.field not in (self.model_extra or {}):
            raise ValueError(f"filter.field: there is no field {self.found.field!r}")
        return self


def _line(value: Any) -> Any:
    # Bytes that are no UTF-8 are kept as halves of surrogate pairs, and pydantic takes no such text for text.
    if not isinstance(value, str):
        raise ValueError(f"text is needed, got {type(value).__name__}")
    return value


class RejectedLine(Schema):
    """`vtokens.filter.datasets.rows.Refusal`."""

    line: Place
    reason: Text
    raw: Annotated[Any, AfterValidator(_line)]
