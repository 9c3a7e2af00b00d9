"""What `vtokens calibrate` and `vtokens search-patterns` write: sinks, thresholds and patterns; measured choices."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from .base import Inside, Many, Name, Number, Positive, Schema, Share, Size, Text

_Dimension = Annotated[int, Field(ge=0, lt=2**20)]
_Cosine = Annotated[float, Field(ge=-2, le=2)]  # at 1 and above nothing merges, and rounding may pass it


class SinksFile(Schema):
    """`vtokens.tables.sinks.Sinks`."""

    version: Literal[1] = Field(alias="schema")
    decoder: Name
    dims: Annotated[list[_Dimension], Field(max_length=1024)]
    tau: Annotated[float, Field(gt=0, le=1e6)]
    source: Text


class _Setting(Schema):
    target: Inside
    left: Share
    rates: Annotated[list[Share], Field(min_length=1, max_length=1024)]
    thresholds: Annotated[list[_Cosine], Field(min_length=1, max_length=1024)]


class ThresholdsFile(Schema):
    """`vtokens.tables.thresholds.Table`."""

    version: Literal[1] = Field(alias="schema")
    tower: Name
    sample: Annotated[list[Number], Field(max_length=1024)]
    source: Text
    settings: Annotated[list[_Setting], Field(min_length=1, max_length=1024)]


def _bounded(value: Any) -> Any:
    """A parameter whose kind its pattern checks; here only its size."""
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, int) and not -1 <= one <= 2**24:  # below 0 the pattern says what is allowed
            raise ValueError(f"{one:.3g} is out of range: at most {2**24} is allowed")
    if isinstance(value, list) and len(value) > 64:
        raise ValueError(f"{len(value)} entries are too many: 64 are allowed")
    return value


class _Head(Schema):
    inter: Name
    intra: Name
    params: dict[Name, Annotated[Any, AfterValidator(_bounded)]]
    density: Share
    score: Positive
    recall: Share


class PatternsFile(Schema):
    """`vtokens.tables.patterns.Patterns`."""

    version: Literal[1] = Field(alias="schema")
    decoder: Name
    layers: Annotated[Size, Field(ge=1)]
    heads: Annotated[Size, Field(ge=1)]
    block: Annotated[list[Size], Field(min_length=2, max_length=2)]
    ratio: Annotated[float, Field(gt=0, le=1e6)]
    source: Text
    patterns: Many[Annotated[Many[_Head], Field(min_length=1)]]


class _Choice(Schema):
    family: Name
    task: Name
    keep: Annotated[float, Field(gt=0, le=1)]
    spec: Name
    share: Share
    low: Share
    high: Share
    n: Annotated[int, Field(ge=1, le=2**31)]
    random: Share
    ahead: bool
    model: Name
    source: Name


class ChoicesFile(Schema):
    """`vtokens.tables.choices.Chosen`, one an entry."""

    version: Literal[1] = Field(alias="schema")
    choices: Annotated[list[_Choice], Field(min_length=1, max_length=1024)]
