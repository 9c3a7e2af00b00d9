"""Questions about pictures, answered on a Ray cluster: pictures are decoded on CPUs, models run beside them."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from PIL import Image

from vtokens.core import on_ray
from vtokens.core.budget import Keep

if TYPE_CHECKING:
    from ray.data import Dataset

    from vtokens.loading.options import LoadOptions
    from vtokens.strategies import Spec

PIXELS = "__pixels"
"""The column between the stages: a picture as bytes, beside its height and width."""
_SIDES = ("__height", "__width")
_REFUSED = "refused"


@dataclass(frozen=True)
class Decode:
    """The stage in front of the models: opens a row's picture, upright and in RGB.

    Attributes:
        folder: what paths are relative to, and may not leave; None lets them be anywhere.
        most: pixels that a picture may have.
    """

    folder: str | None = None
    most: int = 2**26

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row with its pixels in place of "image" as bytes; with the reason in "refused" where it does not open."""
        found = {name: value for name, value in row.items() if name != "image" or isinstance(value, str)}
        try:
            pixels, reason = np.asarray(self._opened(row.get("image"))), ""
        except (OSError, TypeError, ValueError) as error:
            pixels, reason = np.zeros((0, 0, 3), dtype=np.uint8), f"the image does not open: {error}"
        if not reason and not isinstance(row.get("prompt"), str):
            reason = "'prompt' is no text"
        return found | {PIXELS: pixels.tobytes(), **dict(zip(_SIDES, pixels.shape, strict=False)), _REFUSED: reason}

    def _opened(self, image: Any) -> Image.Image:
        from vtokens.core.images import open_image
        from vtokens.core.pixel_limit import opened
        from vtokens.core.reading import within

        if isinstance(image, str):
            if self.folder is not None:
                within(Path(self.folder), image)
            image = Path(self.folder or "") / image
            data, name = image, str(image)
        elif isinstance(image, bytes):
            data, name = io.BytesIO(image), "the bytes"
        else:
            raise TypeError(f"{type(image).__name__} is neither a path nor the bytes of a file")
        with opened(data) as peeked:  # the size stands in the header; nothing is decoded for it
            width, height = peeked.size
        if width * height > self.most:
            raise ValueError(f"{name} has {width} x {height} pixels, and {self.most:,} are allowed")
        if isinstance(data, io.BytesIO):
            data.seek(0)
        return open_image(data, name)


class Answer:
    """A model on a worker, which answers batches under one strategy.

    Args:
        model: an embedded model, a folder or a hub id, as of `vtokens.load`; loaded where the worker runs.
        strategy, keep: as of `vtokens.load`.
        device: where the model goes; None for a GPU if the worker was given one.
        max_new_tokens: the most tokens of an answer.
        options: as of `vtokens.load`: dtype, attn_implementation, ...
    """

    def __init__(
        self, model: str = "scenes-llava", strategy: str = "none", keep: Keep | None = None,
        device: str | None = None, max_new_tokens: int = 64, options: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        import torch

        import vtokens

        self._model: Any
        self._model, self._processor = vtokens.load(model, strategy, keep, **(options or {}))
        self._model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._handle = vtokens.attachment(self._model) or vtokens.attach(self._model, "none")
        self._most = max_new_tokens

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch with "answer", "image_tokens" and "kept" (a layer, averaged); "refused" says why there is none."""
        prompts, reasons = [str(one) for one in batch["prompt"]], [str(one) for one in batch[_REFUSED]]
        shapes = [tuple(int(side) for side in sides) for sides in zip(*(batch[name] for name in _SIDES), strict=True)]
        pictures = [
            Image.frombytes("RGB", (wide, high), bytes(pixels)) if not reason else None
            for pixels, (high, wide), reason in zip(batch[PIXELS], shapes, reasons, strict=True)
        ]
        good = [number for number, reason in enumerate(reasons) if not reason]
        found: dict[int, tuple[str, int, float]] = {}
        try:
            found = self._asked(good, prompts, pictures)
        except (TypeError, ValueError):  # one of them; which, shows alone
            for number in good:
                try:
                    found |= self._asked([number], prompts, pictures)
                except (TypeError, ValueError) as error:
                    reasons[number] = f"it cannot be answered: {error}"
        told = [found.get(number, ("", 0, 0.0)) for number in range(len(prompts))]
        kept = {name: value for name, value in batch.items() if not name.startswith("__")}
        columns = zip(*told, strict=True)
        return kept | dict(zip(("answer", "image_tokens", "kept"), map(_column, columns), strict=True)) | {
            _REFUSED: _column(reasons)
        }  # fmt: skip

    def _asked(self, rows: list[int], prompts: list[str], pictures: list[Any]) -> dict[int, tuple[str, int, float]]:
        from vtokens.loading.media import batch_inputs, question_about

        if not rows:
            return {}
        asked = [question_about(self._processor, [pictures[row]], prompts[row]) for row in rows]
        inputs = batch_inputs(self._processor, asked).to(self._model.device)
        tokens = self._model.generate(**inputs, max_new_tokens=self._most, do_sample=False)
        texts = self._processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        samples = self._handle.report().samples
        return {
            row: (text.strip(), sum(one.picture.tokens for one in sample.pictures), sample.average_tokens)
            for row, text, sample in zip(rows, texts, samples, strict=True)
        }


def answer(
    dataset: Dataset,
    model: str = "scenes-llava",
    strategy: Spec = "none",
    keep: Keep | None = None,
    *,
    folder: str | Path | None = None,
    batch_size: int = 8,
    workers: int = 1,
    gpus: float = 0,
    max_new_tokens: int = 64,
    **options: Unpack[LoadOptions],
) -> Dataset:
    """A dataset's questions with their answers, worked out when the result is read or written.

    Pictures are opened by tasks on any CPU of the cluster, ahead of the models, which therefore never wait for a JPEG;
    each worker is an actor that loads the model once.

    Args:
        dataset: rows with "image" (a path that every machine sees, or the bytes of a file) and "prompt".
        model, strategy, keep: as of `vtokens.load`.
        folder: what paths are relative to, and may not leave.
        batch_size: rows in one pass of the model.
        workers: models at work.
        gpus: share of a GPU for each; 0 for a CPU each.
        max_new_tokens: the most tokens of an answer.
        options: as of `vtokens.load`: dtype, attn_implementation, ...

    Returns:
        The rows with "answer", "image_tokens", "kept" (visual tokens a layer saw, averaged over layers) and "refused",
        which is empty or says why there is no answer; pictures that came as bytes are left out.

    Raises:
        ImportError: Ray is not installed.
        ValueError: an unknown strategy or setting, fewer than one worker or row a batch.
    """
    from vtokens.strategies import parse

    if strategy != "none":
        parse(strategy, keep)  # before a cluster is asked for anything
    for name, value in (("batch_size", batch_size), ("workers", workers)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}={value!r} is not allowed: a whole number from 1 on")
    ray = imported()
    resources: dict[str, Any] = {"num_gpus": gpus} if gpus else {"num_cpus": 0.75}
    opened = dataset.map(Decode(None if folder is None else str(Path(folder).absolute())), num_cpus=0.25)
    return opened.map_batches(
        Answer,
        fn_constructor_kwargs={
            "model": model, "strategy": strategy, "keep": keep, "max_new_tokens": max_new_tokens, "options": options,
            "device": None if gpus else "cpu",
        },
        batch_size=batch_size,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=workers),
        **resources,
    )  # fmt: skip


def _column(values: Any) -> np.ndarray:
    """One value a row: text as objects, so that nothing is padded or cut."""
    values = list(values)
    return np.array(values, dtype=object) if values and isinstance(values[0], str) else np.array(values)


def imported() -> Any:
    """Ray with its data part; MissingExtra says how it is installed."""
    return on_ray.imported("answering on a cluster")
