"""What schemas have in common: no other fields than theirs, no conversions, finite numbers, and bounded sizes."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from vtokens.core.budget import check_keep

T = TypeVar("T")


class Schema(BaseModel):
    """JSON with these fields and no others; an int may stand for a float, and nothing else is converted."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Open(Schema):
    """The same, with further fields, which are not looked at."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


def _keep(value: Any) -> Any:
    try:
        return value if value is None else check_keep(value)
    except TypeError as error:  # pydantic would let it through
        raise ValueError(str(error)) from error


def _scalar(value: Any) -> Any:
    """Text, a number, a bool, null, or a list or object of these: what settings are made of."""
    if isinstance(value, str) and len(value) > 100_000:
        raise ValueError(f"{len(value):,} characters are too many: 100,000 are allowed")
    return value


Name = Annotated[str, Field(min_length=1, max_length=10_000)]
Text = Annotated[str, Field(max_length=1_000_000)]
Count = Annotated[int, Field(ge=0, le=2**62)]
Place = Annotated[int, Field(ge=1, le=2**62)]
Size = Annotated[int, Field(ge=0, le=2**24)]
"""Tokens, rows or columns: what tensors are made of."""
Share = Annotated[float, Field(ge=0, le=1)]
Inside = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(ge=0, le=1e30)]
Number = Annotated[float, Field(ge=-1e30, le=1e30)]
"""A number whose products and sums stay finite."""
Finite = Annotated[float, Field(allow_inf_nan=False)]
Keep = Annotated[Any, AfterValidator(_keep)]
Value = Annotated[Any, AfterValidator(_scalar)]
Many = Annotated[list[T], Field(fail_fast=True)]
"""A list of which only the first wrong entry is looked at."""
