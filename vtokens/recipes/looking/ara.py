"""ARA: captions, or pictures, of what looks alike in a folder of the user's are put before the question."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vtokens.adapters import adapter_for
from vtokens.adapters.output import features_of
from vtokens.core.errors import shorten
from vtokens.core.extras import needs
from vtokens.core.images import open_image
from vtokens.engine.attach import without
from vtokens.recipes.looking.asking import Asking
from vtokens.recipes.looking.base import Looked, Recipe, function
from vtokens.recipes.looking.registry import recipe
from vtokens.strategies.fields import UNLIMITED
from vtokens.strategies.stages import STAGES

_MOST = 10_000
"""Pictures of a folder: more are a data base's business."""


@recipe(
    "ara",
    paper="ARA, arXiv:2408.00555",
    evidence="stand-in",
    shown="tests/recipes/test_ara.py::test_neighbours_are_those_of_sorted_cosines",
)
@dataclass(frozen=True)
class Ara(Recipe):
    """Puts captions of the pictures in a folder that look most alike before the question, or shows these pictures.

    Pictures are compared by the cosine of what the model's own tower and projector make of them, averaged over tokens.
    A caption is the text file beside a picture, photo.txt for photo.jpg. Captions of nearer pictures come first; the
    prompt grows by at most `words` words of them. One pass; with `when` two, or one where the plain answer is sure.

    Attributes:
        folder: the pictures.
        count: how many neighbours.
        show: "captions" or "pictures"; pictures stand behind the own one, without their captions.
        words: the most words of all captions together.
        when: the entropy of the plain answer's first token, in nats, above which a folder is asked at all; 0 asks it
            always, inf never.
    """

    folder: str = ""
    count: int = 3
    show: Literal["captions", "pictures"] = "captions"
    words: int = 60
    when: float = field(default=0.0, metadata=UNLIMITED)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.folder.strip():
            raise ValueError("the recipe 'ara' needs a folder of pictures: ara(folder='photos')")
        for name in ("count", "words"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is not allowed: at least 1")
        if self.when < 0:
            raise ValueError(f"when={self.when!r} is out of range: an entropy in nats, from 0, or inf")

    def answer(self, asking: Asking) -> Looked:
        library = shelf(asking, self.folder, captions=self.show == "captions")
        if self.when > 0:
            said = asking.ask(likely=True)
            if said.unsure <= self.when:
                return self.looked(asking, said, neighbours=[])
        near = library.nearest(embedding(asking, asking.image), self.count)
        paths = [library.paths[number] for number in near]
        names = [path.name for path in paths]
        if self.show == "pictures":
            shown = (asking.image, *(open_image(path, path.name) for path in paths))
            return self.looked(asking, asking.ask(images=shown), neighbours=names)
        told = within([library.captions[number] for number in near], self.words)
        notes = "\n".join(f"- {one}" for one in told)
        text = f"Captions of pictures that look alike:\n{notes}\n{asking.question}"
        return self.looked(asking, asking.ask(text), neighbours=names, captions=told)


@dataclass(frozen=True)
class Shelf:
    """The pictures of a folder: paths, captions ("" without one), and unit embeddings float32 (N, D)."""

    paths: tuple[Path, ...]
    captions: tuple[str, ...]
    units: np.ndarray

    def nearest(self, unit: np.ndarray, count: int) -> list[int]:
        """The numbers of the pictures with the greatest cosine, the nearest first."""
        with needs("filter", "the recipe 'ara'"):
            from sklearn.neighbors import NearestNeighbors

        index = NearestNeighbors(n_neighbors=min(count, len(self.paths)), metric="cosine").fit(self.units)
        return [int(one) for one in index.kneighbors(unit[None], return_distance=False)[0]]


_shelves: WeakKeyDictionary[Any, dict[Any, Shelf]] = WeakKeyDictionary()
"""What each model has seen of a folder, as long as its files, what embeds them and the processor are as they were."""


def shelf(asking: Asking, folder: str, captions: bool) -> Shelf:
    """The pictures of a folder, embedded once for each model.

    Args:
        asking: whose model embeds.
        folder: pictures, and captions beside them.
        captions: leave pictures without one out.

    Raises:
        OSError: no such folder, or a picture that cannot be read.
        ValueError: no pictures, none with a caption, or more than are looked through.
    """
    place = Path(folder)
    if not place.is_dir():
        raise FileNotFoundError(f"no such folder of pictures: {shorten(folder)}")
    kinds = {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    paths = sorted(path for path in place.iterdir() if path.suffix.lower() in kinds and path.is_file())
    texts = [_caption(path) for path in paths]
    kept = [number for number, text in enumerate(texts) if text or not captions]
    if not kept:
        what = "no picture with a caption, a text file such as photo.txt for photo.jpg" if paths else "no picture"
        raise ValueError(f"the folder {shorten(folder)} holds {what}")
    if len(kept) > _MOST:
        raise ValueError(f"the folder {shorten(folder)} holds {len(kept):,} pictures: {_MOST:,} are looked through")
    files = tuple((str(paths[n]), paths[n].stat().st_mtime_ns, texts[n]) for n in kept)
    key = (files, repr(getattr(asking.processor, "image_processor", asking.processor)), _weights(asking.model))
    known = _shelves.setdefault(asking.model, {})
    if key not in known:
        units = [embedding(asking, open_image(paths[n], paths[n].name)) for n in kept]
        known.clear()  # one folder a model is kept
        known[key] = Shelf(tuple(paths[n] for n in kept), tuple(texts[n] for n in kept), np.stack(units))
    return known[key]


def _weights(model: Any) -> tuple[Any, ...]:
    """Equal as long as nobody has changed, moved or replaced what embeds pictures: tower and projector."""
    adapter = adapter_for(model)
    decoder = {id(one) for one in adapter.language_model.parameters()}
    parts = [one for one in adapter.multimodal.parameters() if id(one) not in decoder]
    return tuple((one.data_ptr(), one._version, one.dtype, one.device) for one in parts)


def embedding(asking: Asking, image: Image.Image) -> np.ndarray:
    """float32 (D,), length 1: the mean of the features that the plain model's tower and projector make of a picture."""
    adapter = adapter_for(asking.model)
    multimodal: Any = adapter.multimodal
    _, inputs = asking.inputs("", [image])
    with torch.no_grad(), without(asking.model, STAGES):
        named = inspect.signature(multimodal.get_image_features).parameters
        found = multimodal.get_image_features(**{name: inputs[name] for name in inputs if name in named})
    features = found if isinstance(found, Tensor | list | tuple) else features_of(adapter, found)
    parts = [features] if isinstance(features, Tensor) else list(features)
    rows = torch.cat([part.reshape(-1, part.shape[-1]) for part in parts]).float()
    mean = rows.mean(0)
    unit: np.ndarray = (mean / mean.norm().clamp_min(1e-12)).cpu().numpy()
    return unit


def within(captions: Sequence[str], words: int) -> list[str]:
    """The captions as far as so many words go, the last one cut."""
    found = []
    for caption in captions:
        some = caption.split()[:words]
        if not some:
            break
        found.append(" ".join(some))
        words -= len(some)
    return found


def _caption(path: Path) -> str:
    beside = path.with_suffix(".txt")
    return beside.read_text(encoding="utf-8", errors="replace").strip() if beside.is_file() else ""


ara = function(Ara)
