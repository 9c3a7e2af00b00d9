"""Tower and projector: scenes-llava's tower, a projector as wide as the language model, heads that keep both honest."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...embedded import embedded_path
from ...render import BACKGROUND, patch_classes, render
from ...signs import NO_LETTER, patch_letters
from ...world import Scene
from ..vision import Seer, presence_loss, vision_states

_UNTOLD = -100  # what cross-entropy leaves out
_BLANK = 0.2  # the weight of a blank patch where patches are told apart
_THINGS = 5.0  # and that of a patch with something on it where vectors are matched
_START = 0.05
_SCALE = 30.0  # of the mean squared miss, so that it weighs about as much as the heads' losses


class Projector(nn.Module):
    """What transformers calls `LlavaMultiModalProjector`, under the same names."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(inputs, outputs), nn.Linear(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.gelu(self.linear_1(x)))


class Sight(nn.Module):
    """From pixels to visual tokens, (B, 144, width).

    The language model never reads [CLS]: heads on it and on the patches keep it from forgetting what the picture holds.
    """

    def __init__(self, width: int, seed: int) -> None:
        super().__init__()
        from transformers import LlavaForConditionalGeneration

        whole: Any = LlavaForConditionalGeneration.from_pretrained(embedded_path("scenes-llava"), dtype=torch.float32)
        tower = whole.model.vision_tower
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.seer = Seer(tower, BACKGROUND + 1)
            self.projector = Projector(tower.config.hidden_size, width)
            self.letters = nn.Linear(tower.config.hidden_size, NO_LETTER + 1)
        # The tower's states are large: what the projector makes of them at first would only drag a trained tower along.
        self.projector.linear_2.weight.data *= _START

    def groups(self, rate: float, reading: bool = False) -> list[dict[str, Any]]:
        """What learns, by learning rate: the tower slowest. reading: the head of letters too."""
        parts = [(self.seer.tower, rate), (self.projector, 3 * rate), (self.seer.head, 3 * rate)]
        parts += [(self.letters, 10 * rate)] if reading else []
        return [{"params": list(part.parameters()), "full": full} for part, full in parts]

    def forward(self, scenes: list[Scene]) -> tuple[Tensor, Tensor, list[tuple[str, bool]]]:
        """Visual tokens of rendered scenes, the heads' loss, and which patches and pictures they told right."""
        states = vision_states(self.seer.tower, torch.from_numpy(render(scenes)))
        classes = torch.from_numpy(patch_classes(scenes).reshape(len(scenes), -1))
        presence = torch.zeros(len(scenes), 36)
        for row, scene in enumerate(scenes):
            presence[row, [t.number for t in scene.visible]] = 1
        near, last, head = states[-2], states[-1], self.seer.head
        told, cls = head["patch"](near[:, 1:]), head["near"](near[:, 0])
        printed = torch.from_numpy(patch_letters(scenes).reshape(len(scenes), -1))
        classes = torch.where(printed == NO_LETTER, classes, _UNTOLD)  # a letter is neither a thing nor a blank
        weights = torch.ones(BACKGROUND + 1)
        weights[-1] = _BLANK
        loss = F.cross_entropy(told.flatten(0, 1), classes.flatten(), weight=weights)
        loss = loss + presence_loss(cls, head["last"](last[:, 0]), presence)
        hit, judged = told.argmax(-1) == classes, []
        if (printed != NO_LETTER).any():
            read = self.letters(near[:, 1:])
            balanced = torch.ones(NO_LETTER + 1)
            balanced[-1] = _BLANK
            loss = loss + F.cross_entropy(read.flatten(0, 1), printed.flatten(), weight=balanced)
            judged += [("patch_letter", bool(right)) for right in (read.argmax(-1) == printed)[printed != NO_LETTER]]
        shapes, digits = (classes >= 0) & (classes < 36), (classes >= 36) & (classes < BACKGROUND)
        for name, which in (("shape", shapes), ("digit", digits)):
            judged += [(f"patch_{name}", bool(right)) for right in hit[which]]
        judged += [("cls", bool(right)) for right in ((cls > 0) == (presence > 0)).all(1)]
        return self.projector(near[:, 1:]), loss, judged


def miss(found: Tensor, wanted: Tensor, classes: Tensor) -> Tensor:
    """How far visual tokens are from the code's vectors, both (B, 144, width); classes: int (B, 144)."""
    weights = torch.where(classes == BACKGROUND, 1.0, _THINGS)
    return _SCALE * ((found - wanted).square().mean(-1) * weights).mean()
