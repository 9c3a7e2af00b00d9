"""A user's own labels: JSON lines that say of each answer which of its words are wrong."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vtokens.core.errors import shorten
from vtokens.core.jsonlines import read_lines
from vtokens.core.reading import parse_json
from vtokens.filter.calibrators.records import LabelledResponse
from vtokens.filter.datasets.bounds import LINE, check_length
from vtokens.filter.datasets.rows import TEXTS
from vtokens.filter.mentions import Mention

PROMPT = "Describe the image."


@dataclass(frozen=True)
class Labelled:
    """A row of a label file.

    Attributes:
        image: the picture's path, as written.
        prompt, response: what was asked, and the answer.
        wrong: what of the answer the picture does not support: words as they stand there, or [start, end] characters.
    """

    image: str
    prompt: str
    response: str
    wrong: tuple[str | tuple[int, int], ...]

    def labels(self, mentions: Sequence[Mention]) -> tuple[list[bool], list[str]]:
        """For each mention whether it is wrong, and the entries of `wrong` that belong to none.

        An entry belongs to the mentions that lie in it or that it lies in, wherever its words stand in the answer as
        whole words; of several of those, the smallest. "dog" is so the object in "a brown dog", not the colour.
        """
        labels, lost = [False] * len(mentions), []
        for entry in self.wrong:
            places = [entry] if not isinstance(entry, str) else _places(entry, self.response)
            hit = False
            for start, end in places:
                inside = [i for i, m in enumerate(mentions) if start <= m.start and m.end <= end]
                around = [i for i, m in enumerate(mentions) if m.start <= start and end <= m.end]
                smallest = min((mentions[i].end - mentions[i].start for i in around), default=0)
                for i in inside or [i for i in around if mentions[i].end - mentions[i].start == smallest]:
                    labels[i] = hit = True
            if not hit:
                lost.append(entry if isinstance(entry, str) else self.response[entry[0] : entry[1]])
        return labels, lost


def read_labels(path: str | Path, prompt: str = PROMPT) -> Iterator[Labelled]:
    """The rows of a label file, one at a time: {"image": "a.jpg", "response": "A dog.", "wrong": ["dog"]}.

    "caption" or "text" may stand for "response"; "prompt" says what was asked, by default `prompt`. "wrong" is there in
    each row, empty where all is right: a row that nobody looked at would count as right.

    Raises:
        OSError: the file cannot be read.
        ValueError: a line that is no such row, by its number.
    """
    return read_lines(path, LINE, lambda text: _row(parse_json(text), prompt), "is no labelled row: {}", cut_off=False)


def _row(content: Any, prompt: str) -> Labelled:
    if not isinstance(content, dict):
        raise ValueError(f"an object is needed, got {type(content).__name__}")
    field = next((name for name in TEXTS if name in content), None)
    if field is None or "image" not in content or "wrong" not in content:
        raise ValueError("'image', 'response' and 'wrong' are needed; 'wrong' is [] where all of the answer is right")
    for name in ("image", field):
        if not isinstance(content[name], str) or not content[name]:
            raise ValueError(f"{name!r} is no text")
    asked = content.get("prompt", prompt)
    if not isinstance(asked, str):
        raise ValueError("'prompt' is no text")
    for name, value in ((repr(field), content[field]), ("'prompt'", asked)):
        check_length(name, value)
    if not isinstance(content["wrong"], list):
        raise ValueError(f"'wrong' is a list of words of the answer, got {shorten(content['wrong'])}")
    entries = tuple(_entry(one, content[field]) for one in content["wrong"])
    return Labelled(content["image"], asked, content[field], entries)


def _entry(one: Any, text: str) -> str | tuple[int, int]:
    if isinstance(one, str) and one.strip():
        if not _places(one, text):
            raise ValueError(f"{shorten(one)} is said to be wrong, and does not stand in the answer")
        return one
    pair = isinstance(one, list) and len(one) == 2 and all(type(number) is int for number in one)
    if pair and 0 <= one[0] < one[1] <= len(text):
        return one[0], one[1]
    raise ValueError(f"{shorten(one)} is neither words of the answer nor [start, end], characters of it")


def _places(words: str, text: str) -> list[tuple[int, int]]:
    """Where words stand in a text as whole words."""
    return [match.span() for match in re.finditer(rf"(?<!\w){re.escape(words.strip())}(?!\w)", text, re.IGNORECASE)]


def labelled(
    hf: Any, rows: Sequence[Labelled], folder: str | Path, batch: int = 16
) -> tuple[list[LabelledResponse], list[str]]:
    """Records of a filter to fit and calibrate with, and what was said to be wrong and is no mention that it judges.

    Args:
        hf: a `HallucinationFilter` without calibrator, so that mentions of every kind are judged.
        rows: the labels.
        folder: paths of pictures are relative to it.
        batch: answers that are read in one pass.

    Raises:
        OSError: a picture that cannot be read.
        ValueError: as `HallucinationFilter.check`.
    """
    records: list[LabelledResponse] = []
    lost: list[str] = []
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        shown = [str(Path(folder) / row.image) for row in part]
        reports = hf.check(shown, [row.prompt for row in part], [row.response for row in part])
        for row, report in zip(part, reports, strict=True):
            labels, missing = row.labels([judged.mention for judged in report.mentions])
            lost += missing
            records.append(report.record(row.image, labels))
    return records, lost
