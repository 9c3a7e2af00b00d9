"""Crop and zoom: look where the question looks, cut that out, and ask again with the picture and the cutting.

After "MLLMs Know Where to Look" (arXiv:2502.17422), without its comparison with a general question: the attention that
the last position of the prompt pays in one layer says where.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel

from vtokens.adapters import adapter_for
from vtokens.core.overlay import seen_image
from vtokens.engine.attach import joined
from vtokens.recipes.again import Again
from vtokens.recipes.region import Look, Region
from vtokens.strategies.checks import check_layer

if TYPE_CHECKING:
    from vtokens.core.generate_options import GenerateOptions


@dataclass(frozen=True)
class Zoomed:
    """What came of it.

    Attributes:
        sequences: int64 (1, N), what `generate` returned for the second prompt.
        box: (left, top, right, bottom), the pixels of the picture that were shown again.
        crop: they.
        attention: float (h, w), the attention of each patch that decided.
    """

    sequences: Tensor
    box: tuple[int, int, int, int]
    crop: Image.Image
    attention: np.ndarray


def zoom(
    model: PreTrainedModel,
    processor: Any,
    prompt: Callable[[int], str],
    image: Image.Image,
    *,
    layer: int | None = None,
    share: float = 0.5,
    **options: Unpack[GenerateOptions],
) -> Zoomed:
    """Ask about a picture once more, with the region that the question looks at most beside it.

    Args:
        model: of a supported family; what is attached to it acts in both passes.
        processor: the model's.
        prompt: from a number of pictures, 1 and 2, to the prompt with as many placeholders.
        image: the picture.
        layer: the decoder layer whose attention decides, 0 to depth - 2; default at half of the depth.
        share: the region's width and height as shares of the picture's.
        options: of the second `generate`.

    Raises:
        TypeError, ValueError: a layer or a share out of range.
    """
    shown, asked = _zoomed(model, processor, [prompt], [image], layer, share), cast(Any, model)
    [found] = shown.found
    return Zoomed(asked.generate(**shown.second, **options), found.box, found.crop, found.attention)


@dataclass(frozen=True)
class Zoom(Again):
    """Crop and zoom for a batch: `model.generate(**inputs, custom_generate=Zoom(processor, prompts, images))`.

    `inputs` are the prompts for one picture each, as `processor` makes them, and what comes back are these with the
    answers behind them. With `return_dict_in_generate=True` the output has `found`, a `Region` for each sample.

    Attributes:
        processor: the model's.
        prompts: of each sample, as in `zoom`; one for all.
        images: of each sample.
        layer, share: as in `zoom`.
        streamer: what the new tokens of the second pass are handed to, in place of one given to `generate`.
    """

    processor: Any
    prompts: Callable[[int], str] | Sequence[Callable[[int], str]]
    images: Sequence[Image.Image]
    layer: int | None = None
    share: float = 0.5
    streamer: Any = None

    def second(self, model: PreTrainedModel, prompts: Sequence[Tensor]) -> tuple[Mapping[str, Any], list[Region]]:
        count, written = len(self.images), self.prompts
        written = [written] * count if callable(written) else list(written)
        if not len(prompts) == count == len(written):
            raise ValueError(
                f"{len(prompts)} prompts were given to generate, and {len(written)} and {count} images to Zoom: one of "
                "each for a sample is needed"
            )
        shown = _zoomed(model, self.processor, written, self.images, self.layer, self.share)
        for row, (given, own) in enumerate(zip(prompts, shown.prompts, strict=True)):
            if not torch.equal(given.to(own.device), own):
                raise ValueError(
                    f"prompt {row} that was given to generate is another than prompts(1) of Zoom, with its picture: "
                    "make the inputs of prompts(1) and the images, by the same processor"
                )
        return shown.second, shown.found


@dataclass(frozen=True)
class _Shown:
    """Prompts (N,) of the first pass, the inputs of the second, and what was found in each picture."""

    prompts: list[Tensor]
    second: Mapping[str, Any]
    found: list[Region]


def _zoomed(
    model: PreTrainedModel,
    processor: Any,
    prompts: Sequence[Callable[[int], str]],
    images: Sequence[Image.Image],
    layer: int | None,
    share: float,
) -> _Shown:
    """Look where the prompts look at their pictures, and write what is asked with the cuttings beside them."""
    facts = adapter_for(model).facts
    if layer is None:
        layer = facts.nearest_attending(max(0, facts.depth // 2 - 1))
    layer = check_layer("layer", layer, facts.depth - 1)
    if not 0 < share <= 1:
        raise ValueError(f"share={share!r} is out of range: a share of the picture's sides in (0, 1] is allowed")
    look, first = (
        Look(layer),
        _inputs(model, processor, [(prompt(1), [image]) for prompt, image in zip(prompts, images, strict=True)]),
    )
    with joined(model, look), torch.no_grad():
        model(**first, logits_to_keep=1)
    if len(look.seen) != len(images):
        raise ValueError(
            f"the processor made {len(look.seen)} pictures of {len(images)} image(s), and which of them the attention "
            "is cut from is not worked out: switch the cutting into tiles off"
        )
    found, second = [], []
    for prompt, image, (picture, scores) in zip(prompts, images, look.seen, strict=True):
        seen = seen_image(processor, image)
        found.append(Region.of(picture, scores, share, seen))
        second.append((prompt(2), [seen, found[-1].crop]))
    rows = zip(first["input_ids"], first["attention_mask"].bool(), strict=True)
    return _Shown([ids[real] for ids, real in rows], _inputs(model, processor, second), found)


def _inputs(model: PreTrainedModel, processor: Any, asked: Sequence[tuple[str, list[Image.Image]]]) -> Any:
    """What the processor makes of prompts and their pictures, padded on the left."""
    texts, images = map(list, zip(*asked, strict=True))
    given = processor(images=images, text=texts, padding=True, padding_side="left", return_tensors="pt")
    return given.to(model.device)
