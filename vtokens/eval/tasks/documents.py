"""The documents of the scenes tasks: pictures, a question, its answer, and what CHAIR needs to know."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vtokens.scenes import KINDS, Example, examples

PICTURES = 4  #: shown by each document of `scenes_needle`

_OTHERS = 128  # scenes that the other pictures are drawn from

#: task -> the kinds of questions it asks
TASKS = {
    "scenes_vqa": tuple(kind for kind in KINDS if kind not in ("digit", "caption")),
    "scenes_pope_random": ("pope_random",),
    "scenes_pope_popular": ("pope_popular",),
    "scenes_pope_adversarial": ("pope_adversarial",),
    "scenes_caption": ("caption",),
    "scenes_ocr": ("digit",),
    "scenes_needle": ("where",),
}


def draw(task: str, n: int, seed: int, split: str) -> list[dict[str, Any]]:
    """The first `n` documents of a task.

    Returns:
        Dicts with `question`, `answer`, `kind`, `index` (the scene's), `objects` (the names of the shapes in the
        picture asked about), and `image` (or `images`, and `needle`, the number of the one asked about) as stored by
        `datasets`.
    """
    drawn = examples(split, n, seed, TASKS[task])
    if task == "scenes_needle":
        # Far from the seeds of any documents; as many whatever n is, so that more documents begin with the same.
        others = examples(split, _OTHERS, seed + 2**32, ["count_all"])
        return [_hidden(example, others, seed) for example in drawn]
    return [_document(example) | {"image": _stored(example.image)} for example in drawn]


def save(documents: Sequence[dict[str, Any]], folder: Path) -> None:
    """Write documents as the split `test` of a dataset on disk."""
    import datasets

    types = {"question": "string", "answer": "string", "kind": "string", "index": "int64", "needle": "int64"}
    features: dict[str, Any] = {name: datasets.Value(kind) for name, kind in types.items()}
    features |= {"objects": datasets.List(datasets.Value("string"))}
    features |= {"image": datasets.Image(), "images": datasets.List(datasets.Image())}
    there = datasets.Features({name: feature for name, feature in features.items() if name in documents[0]})
    table = datasets.Dataset.from_list(list(documents), features=there)
    with _quiet():
        datasets.DatasetDict({"test": table}).save_to_disk(str(folder))


def _document(example: Example) -> dict[str, Any]:
    return {
        "question": example.question,
        "answer": example.answer,
        "kind": example.kind,
        "index": example.index,
        "objects": [thing.name for thing in example.scene.visible],
    }


def _hidden(example: Example, others: Sequence[Example], seed: int) -> dict[str, Any]:
    """The example's picture among others, none of which shows what is asked for."""
    name = example.question.removeprefix("Where is the ").removesuffix("?")
    rng = np.random.default_rng((seed, example.index))
    without = [other.image for other in others if all(thing.name != name for thing in other.scene.objects)]
    shown = [without[i] for i in rng.choice(len(without), PICTURES - 1, replace=False)]
    needle = int(rng.integers(PICTURES))
    shown.insert(needle, example.image)
    return _document(example) | {"images": [_stored(image) for image in shown], "needle": needle}


def _stored(image: Image.Image) -> dict[str, Any]:
    data = BytesIO()
    image.save(data, "PNG")
    return {"bytes": data.getvalue(), "path": None}


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars of `datasets`, which are on or off for the whole process."""
    import datasets

    before = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not before:
            datasets.enable_progress_bars()
