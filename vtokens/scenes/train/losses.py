"""What the stages share: visual tokens from words, positions, and the language model's loss on packed questions."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..kinds import KINDS
from ..model import WORDS
from ..render import BACKGROUND
from ..world import COLOURS, COLUMNS, GRID, NUMBERS, ROWS, SHAPES
from . import packed
from .data import TrainingBatch

PATCHES = 144


def word_sum(words: Tensor, blank: Tensor, patches: Tensor) -> Tensor:
    """The vectors that stand for patches: E[colour] + E[shape] + E[row] + E[column] of what is there, or `blank`.

    words: (V, hidden) word embeddings; blank: (hidden,); patches: int (B, N) classes, of a square picture in raster
    order. Returns (B, N, hidden).
    """
    count = patches.shape[1]
    side = math.isqrt(count)
    ids = {w: i for i, w in enumerate(WORDS)}
    first = [ids[c] for c in COLOURS for _ in SHAPES] + [ids["digit"]] * 10 + [0]
    second = [ids[s] for _ in COLOURS for s in SHAPES] + [ids[n] for n in NUMBERS] + [0]
    rows = [ids[ROWS[p // side * GRID // side]] for p in range(count)]
    columns = [ids[COLUMNS[p % side * GRID // side]] for p in range(count)]
    table = words[first] + words[second]
    place = words[rows] + words[columns]
    return torch.where((patches == BACKGROUND)[..., None], blank, table[patches] + place)


def prefix_of(model: Any, visual: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
    """'<bos> USER:' in front of the visual tokens, with positions: (B, 2 + N, hidden) and int (B, 2 + N)."""
    ids = torch.tensor([WORDS.index("<bos>"), WORDS.index("USER:")], device=visual.device)
    front = model.get_input_embeddings()(ids).expand(len(visual), -1, -1)
    return torch.cat((front, visual), 1), torch.cat(
        (torch.arange(2, device=where.device).expand(len(where), -1), where + 2), 1
    )


def language_loss(
    model: Any, visual: Tensor, where: Tensor, end: int, batch: TrainingBatch
) -> tuple[Tensor, dict[str, float]]:
    """Loss over all answers of a batch, and the share right per kind; `end` is the first position after the image."""
    prefix, positions = prefix_of(model, visual, where)
    pieces = [(batch.ids, end + 2), (batch.caption_ids, end + 2)]
    states = packed.hidden_states(model.model.language_model, prefix, positions, pieces)
    loss, (short, caption) = packed.answer_loss(model.lm_head, states, [batch.labels, batch.caption_labels])
    figures = {"loss": loss.item()}
    for number, kind in enumerate(KINDS[:-1]):
        asked = batch.kinds == number
        figures[kind] = short[asked].float().mean().item()
    figures["caption"] = caption.float().mean().item()
    return loss, figures


def positions_for(count: int, size: int, device: torch.device, squeeze: float | None) -> tuple[Tensor, int]:
    """Positions of 144 visual tokens, (B, 144), and the first after them; `squeeze` < 1 compresses them."""
    where = torch.arange(count, device=device)
    if squeeze is not None:
        where = (where * squeeze).long()
    return where.expand(size, -1), int(where[-1]) + 1
