"""All that learns, in one module, and the losses of the stages."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...clips.questions import KINDS as CLIP_KINDS
from ...kinds import KINDS
from ...qwen.model import SIDE, WORDS, build_model
from ...render import BACKGROUND
from .. import packed
from ..data import TrainingBatch
from ..losses import word_sum
from ..pretraining import thin
from .data import ClipBatch
from .tower import features

TOKENS = SIDE * SIDE
_THIN = 256  # tokens that a symbolic clip keeps
_NOISE = 0.1
_FRONT = [WORDS.index(w) for w in ("<bos>", "USER:", "<|vision_start|>")]
_BEHIND = [WORDS.index("<|vision_end|>")]


class Pupil(nn.Module):
    """The model; the vector that stands for ground; and the head that says what each visual token shows."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.qwen: Any = build_model(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.blank = nn.Parameter(0.3 * torch.randn(128))
            self.head = nn.Linear(128, BACKGROUND + 1)

    def symbols(self, patches: Tensor) -> Tensor:
        """The vectors that stand for visual tokens of these classes: (B, 64) -> (B, 64, hidden)."""
        return word_sum(self.qwen.get_input_embeddings().weight, self.blank, patches)

    def seen(self, pixels: Tensor) -> Tensor:
        """What the tower gives for steps, uint8 (N, 2, 96, 96, 3): (N, 64, hidden)."""
        return features(self.qwen.model.visual, pixels)


def twice(pixels: Tensor) -> Tensor:
    """A picture as the processor gives it: the same frame twice, (B, 96, 96, 3) -> (B, 2, 96, 96, 3)."""
    return pixels[:, None].expand(-1, 2, -1, -1, -1)


def places(steps: int, device: torch.device) -> Tensor:
    """Time, row and column of the visual tokens of `steps` steps: int (3, steps * 64)."""
    axes = (torch.arange(steps, device=device), *[torch.arange(SIDE, device=device)] * 2)
    return torch.stack([axis.flatten() for axis in torch.meshgrid(*axes, indexing="ij")])


def answered(pupil: Pupil, visual: Tensor, where: Tensor, batch: Any) -> tuple[Tensor, dict[str, float]]:
    """Loss over all answers of a batch, and the share right per kind.

    visual: (B, N, hidden). where: int (3, B, N), places within the picture or video.
    """
    model = pupil.qwen
    size, start = len(visual), len(_FRONT)
    # transformers goes on behind a picture or a video where its height ends, however long it lasts.
    behind = start + int(where[1:].amax()) + 1
    ids = torch.tensor([*_FRONT, *_BEHIND], device=visual.device)
    front, back = model.get_input_embeddings()(ids).expand(size, -1, -1).split([start, len(_BEHIND)], 1)
    text = torch.tensor([*range(start), behind], device=visual.device).expand(3, size, -1)
    positions = torch.cat((text[..., :start], where + start, text[..., start:]), -1)
    pieces, labels = [(batch.ids, behind + 1)], [batch.labels]
    if isinstance(batch, TrainingBatch):
        pieces.append((batch.caption_ids, behind + 1))
        labels.append(batch.caption_labels)
    states = packed.hidden_states(model.model.language_model, torch.cat((front, visual, back), 1), positions, pieces)
    loss, rights = packed.answer_loss(model.lm_head, states, labels)
    figures = {"loss": loss.item()}
    for number, kind in enumerate(KINDS[:-1] if len(pieces) > 1 else CLIP_KINDS):
        figures[kind] = rights[0][batch.kinds == number].float().mean().item()
    if len(pieces) > 1:
        figures["caption"] = rights[1].float().mean().item()
    return loss, figures


def looked(pupil: Pupil, visual: Tensor, patches: Tensor) -> tuple[Tensor, dict[str, float]]:
    """How badly the head tells what visual tokens show: features (N, 64, hidden) against classes (N, 64)."""
    logits = pupil.head(visual).float()
    weights = torch.ones(BACKGROUND + 1, device=visual.device)
    weights[-1] = 0.2
    loss = F.cross_entropy(logits.flatten(0, 1), patches.flatten(), weight=weights)
    hit, thing = logits.argmax(-1) == patches, patches < 36
    digit = (patches >= 36) & (patches < BACKGROUND)
    figures = {"look": loss, "shapes": hit[thing].float().mean(), "digits": hit[digit].float().mean()}
    return loss, {k: v.item() for k, v in figures.items()}


def missed(pupil: Pupil, visual: Tensor, patches: Tensor) -> tuple[Tensor, dict[str, float]]:
    """How far features (N, 64, hidden) are from the vectors of their classes, objects weighing five times as much."""
    with torch.no_grad():
        wanted = pupil.symbols(patches).float()
    miss, thing = (visual.float() - wanted).square().mean(-1), patches != BACKGROUND
    figures = {"object": miss[thing].mean().item(), "ground": miss[~thing].mean().item(), "scale": wanted.var().item()}
    return (miss * (1 + 4 * thing)).mean() * 10, figures


def symbolic(pupil: Pupil, batch: TrainingBatch | ClipBatch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The vectors of a batch and their places; of a clip's tokens a share, ground left out first."""
    steps = 1 if isinstance(batch, TrainingBatch) else batch.patches.shape[1]
    size, patches = len(batch.patches), batch.patches.view(-1, TOKENS)
    visual, where = pupil.symbols(patches), places(steps, patches.device)[:, None].expand(-1, size, -1)
    if steps > 1:
        kept = thin(patches.cpu(), _THIN // steps, generator, things=True).to(patches.device)
        visual = visual.gather(1, kept[..., None].expand(-1, -1, visual.shape[-1]))
        first = torch.arange(steps, device=kept.device)[:, None] * TOKENS
        where = where.gather(2, (kept.view(size, steps, -1) + first).flatten(1).expand(3, -1, -1))
    visual = visual.view(size, -1, visual.shape[-1])
    noise = torch.randn(visual.shape, generator=generator).to(visual)
    return visual + _NOISE * noise, where
