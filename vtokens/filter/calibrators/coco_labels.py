"""Labels from annotations in COCO's format, as CHAIR has them (Rohrbach et al., 2018, arXiv:1809.02156)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vtokens.core.errors import nearest
from vtokens.core.reading import MEBIBYTE, read_json
from vtokens.filter.mentions import Mention, get_extractor
from vtokens.filter.mentions.lexicon import Lexicon, from_names
from vtokens.schemas import check

_MOST = 4096 * MEBIBYTE  # COCO's own files have 450


class CocoLabels:
    """What is in each picture of a data set: annotated instances, and objects that people named in its captions.

    Args:
        instances: an `instances_*.json`, as a path or read.
        captions: a `captions_*.json`; optional, as instances alone miss much of what is there.

    Attributes:
        extractor: finds mentions that can be labelled: "coco" where COCO's 80 categories are annotated, its words for
            the annotated ones where only some are, otherwise a vocabulary of the category names.

    Raises:
        OSError: a file that cannot be read.
        ValueError: content in another format.
    """

    def __init__(self, instances: str | Path | dict[str, Any], captions: str | Path | dict[str, Any] | None = None):
        content = _read(instances, "instances", ("images", "annotations", "categories"))
        names = {row["id"]: " ".join(str(row["name"]).lower().split()) for row in content["categories"]}
        if not names:
            raise ValueError(f"{_called(instances)} has no categories")
        coco: Any = get_extractor("coco")
        self._vocabulary = frozenset(names.values())
        if self._vocabulary == set(coco.names):
            self.extractor: Lexicon = coco
        elif self._vocabulary < set(coco.names):
            forms = {form: name if name in self._vocabulary else None for form, name in coco.forms.items()}
            self.extractor = replace(coco, forms=forms, name="categories")
        else:
            self.extractor = from_names(sorted(self._vocabulary), "categories")
        self._ids: dict[str | int, int] = {}
        for row in content["images"]:
            self._ids |= {row["id"]: row["id"], str(row.get("file_name", row["id"])): row["id"]}
        self._truth: dict[int, set[str]] = {row["id"]: set() for row in content["images"]}
        for row in content["annotations"]:
            if row["category_id"] not in names:
                raise ValueError(f"{_called(instances)}: unknown category {row['category_id']!r} of an annotation")
            self._truth.setdefault(row["image_id"], set()).add(names[row["category_id"]])
        if captions is not None:
            for row in _read(captions, "captions", ("annotations",))["annotations"]:
                said = {m.name for m in self.extractor(str(row["caption"])) if not m.negated}
                self._truth.setdefault(row["image_id"], set()).update(said)

    @property
    def images(self) -> list[int]:
        """The pictures' numbers, in the order of the file."""
        return list(self._truth)

    def objects(self, image: int | str) -> frozenset[str]:
        """What is in a picture, given by its number or file name; ValueError if it is not annotated."""
        number = image if image in self._truth else self._ids.get(image, self._ids.get(Path(str(image)).name))
        if number not in self._truth:
            near = nearest(image, map(str, self._ids))
            raise ValueError(f"unknown image {image!r}.{near} {len(self._truth)} images are annotated")
        return frozenset(self._truth[int(number)])

    def __call__(self, image: int | str, mentions: Sequence[Mention]) -> list[bool]:
        """For each mention, whether the picture does not support it (a denial: whether the object is there).

        Raises:
            ValueError: an image that is not annotated, or a mention that is no object of the vocabulary: take those
                of `extractor`.
        """
        truth = self.objects(image)
        for mention in mentions:
            if mention.kind != "object" or mention.name not in self._vocabulary:
                raise ValueError(
                    f"the {mention.kind} {mention.name!r} is not among the annotated categories, so nothing is known "
                    f"of it: label the objects that the extractor {self.extractor.name!r} finds"
                )
        return [(mention.name in truth) == mention.negated for mention in mentions]


def _read(source: str | Path | dict[str, Any], what: str, keys: Sequence[str]) -> dict[str, Any]:
    if isinstance(source, dict):
        content: Any = source
    else:
        try:
            content = read_json(source, _MOST)
        except ValueError as error:
            raise ValueError(f"{source} is no JSON file: {error}") from error
    missing = [key for key in keys if not isinstance(content, dict) or not isinstance(content.get(key), list)]
    if missing:
        raise ValueError(f"{_called(source)} has no {what} in COCO's format: {', '.join(missing)} missing")
    try:
        return dict(check(content, what))
    except ValueError as error:
        raise ValueError(f"{_called(source)} has no {what} in COCO's format: {error}") from error


def _called(source: str | Path | dict[str, Any]) -> str:
    return "the annotation" if isinstance(source, dict) else str(source)
