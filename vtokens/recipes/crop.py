"""Crop and zoom: look where the question looks, cut that out, and ask again with the picture and the cutting.

After "MLLMs Know Where to Look" (arXiv:2502.17422), without its comparison with a general question: the attention that
the last position of the prompt pays in one layer says where.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel

from vtokens.adapters import adapter_for
from vtokens.core.facts import Facts
from vtokens.core.overlay import seen_image
from vtokens.core.picture import Picture
from vtokens.engine.attach import joined
from vtokens.strategies.base import Strategy, check_layer
from vtokens.strategies.needs import Needs
from vtokens.strategies.selection import Selection
from vtokens.strategies.signals import Attention
from vtokens.strategies.views.visuals import Visuals


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
    **options: Any,
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
    depth = len(adapter_for(model).layers)
    layer = check_layer("layer", max(0, depth // 2 - 1) if layer is None else layer, depth - 1)
    if not 0 < share <= 1:
        raise ValueError(f"share={share!r} is out of range: a share of the picture's sides in (0, 1] is allowed")
    look = _Look(layer)
    with joined(model, look), torch.no_grad():
        model(**_inputs(model, processor, prompt, [image]), logits_to_keep=1)
    [(picture, scores)] = look.seen
    attention = _plane(picture, scores)
    seen = seen_image(processor, image)
    box = _box(attention, share, seen.size)
    crop = seen.crop(box)
    asked: Any = model
    sequences = asked.generate(**_inputs(model, processor, prompt, [seen, crop]), **options)
    return Zoomed(sequences, box, crop, attention)


@dataclass(frozen=True)
class _Look(Strategy):
    """Notes the attention that each visual token gets from the end of the prompt in one layer, and drops nothing."""

    name: ClassVar[str] = "look"
    layer: int
    seen: list[tuple[Picture, np.ndarray]] = field(default_factory=list, compare=False)

    def needs(self, facts: Facts) -> Needs:
        return Needs(signals=(Attention(self.layer),), layer=(self.layer + 1,))

    def at_layer(self, visuals: Visuals, index: int) -> Selection | None:
        scores, cells = visuals.attention(self.layer).cpu().numpy(), visuals.cells.cpu().numpy()
        for number, picture in enumerate(visuals.layout.pictures):
            full = np.zeros(len(picture))
            count = visuals.counts[number]
            full[cells[number, :count]] = scores[number, :count]
            self.seen.append((picture, full))
        return None


def _inputs(model: PreTrainedModel, processor: Any, prompt: Callable[[int], str], images: list[Image.Image]) -> Any:
    given = processor(images=[images], text=[prompt(len(images))], return_tensors="pt")
    return given.to(model.device)


def _plane(picture: Picture, scores: np.ndarray) -> np.ndarray:
    """float (h, w): scores of the positions of a picture's last view, the detailed one, on its grid."""
    number = len(picture.grids) - 1
    inside = picture.view == number
    plane = np.zeros(picture.grids[number][1:])
    plane[picture.y[inside], picture.x[inside]] = scores[inside]
    return plane


def _box(attention: np.ndarray, share: float, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The pixels of the window with the greatest sum of attention; of equal ones the first in raster order."""
    rows, columns = attention.shape
    high, wide = (min(n, max(1, round(n * share))) for n in (rows, columns))
    sums = np.pad(attention.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    windows = sums[high:, wide:] - sums[:-high, wide:] - sums[high:, :-wide] + sums[:-high, :-wide]
    top, left = np.unravel_index(windows.argmax(), windows.shape)
    width, height = size
    return (
        int(left) * width // columns,
        int(top) * height // rows,
        -(-(int(left) + wide) * width // columns),
        -(-(int(top) + high) * height // rows),
    )
