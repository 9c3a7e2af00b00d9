"""What `HallucinationFilter.save` and `Calibrator.save` write."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from .base import Count, Inside, Many, Name, Number, Schema, Share, Text

_Scale = Annotated[float, Field(ge=1e-30, le=1e30)]
_Rows = Many[Many[Number]]
_Kind = Literal["object", "attribute", "count", "relation", "text"]
_Indices = Many[Many[Annotated[int, Field(ge=-1, le=2**24)]]]


class _Setting(Schema):
    model: Text
    strategy: Text
    prompts: Text
    decoding: Text
    extractor: Text


class _Risk(Schema):
    kind: Literal["any", "share", "ratio"]
    alpha: Inside
    delta: Inside | None


class _Logistic(Schema):
    kind: Literal["logistic"]
    mean: Many[Number]
    scale: Many[_Scale]
    weights: Many[Number]
    bias: Number

    def reads(self, names: int) -> None:
        """Raise `ValueError` unless it reads so many signals."""
        for what in ("mean", "scale", "weights"):
            if len(getattr(self, what)) != names:
                raise ValueError(f"estimator.{what} has {len(getattr(self, what))} numbers for {names} names")


class _Trees(Schema):
    kind: Literal["trees"]
    base: Number
    depth: Annotated[int, Field(ge=0, le=1000)]
    feature: _Indices
    threshold: _Rows
    left: _Indices
    right: _Indices
    value: _Rows

    def reads(self, names: int) -> None:
        """Raise `ValueError` unless all arrays are of one shape and lead to signals and nodes that there are."""
        arrays: list[list[list[Any]]] = [self.feature, self.threshold, self.left, self.right, self.value]
        shapes = {(len(array), len(row)) for array in arrays for row in array}
        if len(shapes) != 1 or not all(arrays) or (nodes := min(shapes)[1]) < 1:
            raise ValueError("estimator: feature, threshold, left, right and value must be arrays of one shape")
        for what, array, most in (
            ("feature", self.feature, names), ("left", self.left, nodes), ("right", self.right, nodes),
        ):  # fmt: skip
            highest = max(map(max, array))
            if highest >= most:
                raise ValueError(f"estimator.{what}: {highest} is out of range: 0 to {most - 1}, or -1")


class _Sigmoid(Schema):
    kind: Literal["sigmoid"]
    a: Number
    b: Number


class _Isotonic(Schema):
    kind: Literal["isotonic"]
    x: Annotated[Many[Number], Field(min_length=1)]
    y: Annotated[Many[Share], Field(min_length=1)]
    trace: Share

    @model_validator(mode="after")
    def _rises(self) -> _Isotonic:
        if len(self.x) != len(self.y):
            raise ValueError(f"{len(self.x)} numbers in x for {len(self.y)} in y: one each is needed")
        for what in ("x", "y"):
            if any(after < before for before, after in pairwise(getattr(self, what))):
                raise ValueError(f"{what} falls somewhere, and must not")
        return self


_Link = Annotated[_Sigmoid | _Isotonic, Field(discriminator="kind")]


class _Counts(Schema):
    responses: Count
    images: Count
    mentions: Count
    unsupported: Count


class _Fitted(Schema):
    fit: _Counts
    calibration: _Counts


class CalibratorFile(Schema):
    """`vtokens.filter.Calibrator`."""

    format: Literal["vtokens calibrator"]
    version: Literal[1] = Field(alias="schema")
    setting: _Setting
    names: Annotated[list[Name], Field(min_length=1, max_length=10_000)]
    estimator: Annotated[_Logistic | _Trees, Field(discriminator="kind")]
    link: _Link
    fitted: _Fitted
    links: Annotated[dict[_Kind, _Link], Field(max_length=5)] = Field(default_factory=dict)
    kinds: Annotated[dict[_Kind, Count], Field(min_length=1)] | None = None
    middle: Many[Number] = Field(default_factory=list)

    @model_validator(mode="after")
    def _match(self) -> CalibratorFile:
        if len({*self.names}) < len(self.names):
            raise ValueError("names: one is there twice")
        self.estimator.reads(len(self.names))
        if self.middle and len(self.middle) != len(self.names):
            raise ValueError(f"middle has {len(self.middle)} numbers for {len(self.names)} names")
        return self


class _Calibration(Schema):
    setting: _Setting
    risk: _Risk
    scores: Annotated[_Rows, Field(min_length=1)]
    labels: Many[Many[bool]]
    sentences: Many[Many[Count]]

    @model_validator(mode="after")
    def _match(self) -> _Calibration:
        shape = [len(row) for row in self.scores]
        for what in ("labels", "sentences"):
            if [len(row) for row in getattr(self, what)] != shape:
                raise ValueError(f"{what} must hold one entry a score, response by response")
        return self


class FilterFile(Schema):
    """`vtokens.filter.saved.Saved`."""

    format: Literal["vtokens filter"]
    version: Literal[1] = Field(alias="schema")
    signals: Annotated[list[Name], Field(min_length=1, max_length=10_000)]
    extractor: Name
    calibrator: CalibratorFile | None
    calibration: _Calibration | None
