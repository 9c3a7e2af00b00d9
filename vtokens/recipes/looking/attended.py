"""Where a question makes the plain model look: relative attention, and attention times its gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vtokens.core.errors import shorten
from vtokens.core.facts import Facts
from vtokens.core.picture import Picture
from vtokens.recipes.looking.asking import Asking, only
from vtokens.recipes.region import Look, plane
from vtokens.strategies import Strategy, check_layer
from vtokens.strategies.needs import Needs
from vtokens.strategies.views.heads import Heads

GENERAL = "Write a general description of the image."
"""What relative attention is held against, as in the released code of arXiv:2502.17422."""
_SHARES = {"qwen2_5_vl": 22 / 28}
"""How deep the paper's layer lies in the families for which it names one; LLaVA-1.5's, 14 of 32, for all others."""


def layer_of(facts: Facts, layer: int | None) -> int:
    """The decoder layer that is read: the one given, or as deep as the paper's lies in its models.

    Raises:
        TypeError, ValueError: a layer that cannot be read: the last one, or one without attention.
    """
    if layer is None:
        deep = round(facts.depth * _SHARES.get(facts.family, 14 / 32))
        layer = facts.nearest_attending(min(max(0, deep), facts.depth - 2))
    check_layer("layer", layer, facts.depth - 1)
    if layer in facts.linear:
        raise ValueError(f"layer={layer} has no attention: the nearest that has is {facts.nearest_attending(layer)}")
    return layer


def looks(facts: Facts, layers: Sequence[int]) -> tuple[Strategy, ...]:
    """The strategies that `relative` looks with."""
    return tuple(Look(layer) for layer in layers)


def relative(
    asking: Asking, layers: Sequence[int], general: str = GENERAL, image: Image.Image | None = None,
    floor: float = 0.0,
) -> list[np.ndarray]:  # fmt: skip
    """A_q / (A_g + floor * mean A_g) for each layer, float64 (h, w): two passes of the plain model.

    Args:
        asking: whose question gives A_q.
        layers: decoder layers.
        general: the question that gives A_g.
        image: another picture than the own one.
        floor: what keeps patches that nobody looks at from dividing by nearly nothing.

    Raises:
        ValueError: `general` is empty.
    """
    if not general.strip():
        raise ValueError(f"general={shorten(general)} is empty: a question that asks for nothing in particular")
    wanted = asking.look(asking.question, layers, image)
    usual = asking.look(general, layers, image)
    tiny = float(np.finfo(np.float32).tiny)
    return [q / np.maximum(g + floor * g.mean(), tiny) for q, g in zip(wanted, usual, strict=True)]


@dataclass(frozen=True)
class Pull(Strategy):
    """Notes what one layer's attention at the end of the prompt is worth to the answer, and changes nothing.

    A head's output there is the sum of A_j v_j over keys j. So the gradient of anything with respect to A_j is that
    with respect to the output, taken times v_j: no attention matrix is kept, and eager attention is not needed.
    """

    name: ClassVar[str] = "pull"
    layer: int
    seen: list[Any] = field(default_factory=list, compare=False)

    def needs(self, facts: Facts) -> Needs:
        return Needs(attend=(self.layer,))

    def at_attend(self, heads: Heads) -> None:
        if not heads.is_image_prefill or heads.layout is None:
            return
        outputs = heads.at(heads.last)
        probe = torch.zeros_like(outputs, requires_grad=True)
        heads.replace(heads.last, outputs + probe)
        with torch.no_grad():
            paid = heads.received(heads.last)
        self.seen.append((heads.layout, probe, paid, heads.value.detach()))


def gradient(asking: Asking, layer: int) -> np.ndarray:
    """A * ReLU(d log p / d A) in one layer, mean over heads, float64 (h, w): one pass of the plain model and back.

    p is the probability of the likeliest next token, A the attention from the end of the prompt. The graph of the whole
    pass is kept until then, as in a training step.
    """
    pull = Pull(layer)
    with torch.enable_grad(), asking.watched(pull) as model:
        logits = model(**asking.inputs(asking.question, [asking.image])[1], logits_to_keep=1).logits
        likely = logits[0, -1].float().log_softmax(-1).max()
        [(layout, probe, paid, value)] = pull.seen
        (slope,) = torch.autograd.grad(likely, probe)
    return plane(*_worth(layout, slope[:, :, 0].float(), paid, value.float()))


def _worth(layout: Any, slope: Tensor, paid: Tensor, value: Tensor) -> tuple[Picture, np.ndarray]:
    """The picture, and float64 (positions,): attention (1, H, K) times its own gradient where that is above 0."""
    per = slope.shape[1] // value.shape[1]
    slopes = torch.einsum("bhd,bhkd->bhk", slope, value.repeat_interleave(per, 1))
    worth = (paid * slopes.relu()).mean(1)[0].double().cpu().numpy()
    picture: Picture = only(layout.pictures)
    visual = layout.visual[0].cpu().numpy()
    full = np.zeros(len(picture))
    full[layout.cell[0].cpu().numpy()[visual]] = worth[visual]
    return picture, full
