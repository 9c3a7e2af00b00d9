"""Labelled responses: what calibrators are fitted on and thresholds are calibrated on, one JSON line each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtokens.core.errors import shorten
from vtokens.core.jsonlines import read_lines
from vtokens.core.moved import renamed
from vtokens.core.reading import parse_json
from vtokens.core.writing import line, replacing
from vtokens.filter.datasets.bounds import LINE
from vtokens.filter.mentions import Mention
from vtokens.schemas import check


@dataclass(frozen=True)
class LabelledResponse:
    """A response whose mentions are known to be right or wrong.

    Attributes:
        image: names the picture. Records of one picture are never split between fitting, calibrating and testing.
        prompt: what was asked.
        response: the whole text of the answer.
        mentions: in the order of the text; there may be none.
        signals: by signal name one number a mention, high where it looks hallucinated.
        labels: one a mention, True where the picture does not support it.
        meta: under which conditions the response came about (`Setting.meta`), and whatever else is worth keeping, as
            JSON.

    Raises:
        TypeError: an image that is neither text nor a whole number, labels other than bools.
        ValueError: signals or labels of another number than the mentions.
    """

    image: str | int
    prompt: str
    response: str
    mentions: list[Mention]
    signals: dict[str, list[float]]
    labels: list[bool]
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.image, bool) or not isinstance(self.image, str | int):
            raise TypeError(f"image must be text or a whole number, got {self.image!r}")
        columns: list[tuple[str, Sequence[Any]]] = [("labels", self.labels), *self.signals.items()]
        for name, values in columns:
            if len(values) != len(self.mentions):
                raise ValueError(
                    f"{name!r} must have one value a mention, got {len(values)} for {len(self.mentions)} mentions"
                )
        wrong = next((label for label in self.labels if not isinstance(label, bool)), None)
        if wrong is not None:
            raise TypeError(f"labels must be bools, got {wrong!r}")

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {**vars(self), "mentions": [mention.to_dict() for mention in self.mentions]}

    @classmethod
    def from_dict(cls, row: Any) -> LabelledResponse:
        """The record that `to_dict` gave; ValueError or TypeError saying what is missing or wrong."""
        names = {f.name for f in fields(cls)}
        if not isinstance(row, dict):
            raise TypeError(f"a record is an object, got {type(row).__name__}")
        if set(row) != names:
            missing, extra = sorted(names - set(row)), sorted(set(row) - names)
            raise ValueError(f"a record has the fields {sorted(names)}; missing {missing}, unknown {shorten(extra)}")
        check(row, "record")
        mentions = []
        for number, mention in enumerate(row["mentions"]):
            try:
                mentions.append(Mention.from_dict(mention))
            except ValueError as error:
                raise ValueError(f"mentions[{number}]: {error}") from error
        return cls(**{**row, "mentions": mentions})


def write(path: str | Path, records: Iterable[LabelledResponse]) -> int:
    """Replace `path` by these records, in one step; what was there stays if anything goes wrong.

    Returns:
        How many were written.

    Raises:
        OSError: the folder cannot be written or the disk is full.
        ValueError: a signal that is NaN or infinite, which JSON cannot hold; the record and the signal are named.
    """
    count = 0
    with replacing(Path(path)) as put:
        for count, record in enumerate(records, 1):
            for name, values in record.signals.items():
                bad = next((v for v in values if not math.isfinite(v)), None)
                if bad is not None:
                    raise ValueError(f"record {count} (image {record.image!r}): signal {name!r} is {bad}")
            put(line(record.to_dict()))
    return count


def read(path: str | Path) -> Iterator[LabelledResponse]:
    """The records in a file, one at a time.

    Raises:
        ValueError: a line that is no record, by its number; a last line that was cut off is one.
    """
    return read_lines(path, LINE, _record, "is no record: {}", cut_off=False)


def _record(text: str) -> LabelledResponse:
    return LabelledResponse.from_dict(parse_json(text))


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        return renamed(__name__, name)
