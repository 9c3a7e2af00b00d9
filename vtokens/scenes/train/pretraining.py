"""Stages 1 to 3: the tower on patches, the language model on symbols, and the one regressed onto the other."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from ..model import build_model
from ..render import BACKGROUND
from ..world import GRID
from . import vision
from .data import batches
from .losses import PATCHES, language_loss, positions_for, word_sum
from .optim import Masters
from .progress import Progress, load, save_model

TEXT = ["model.language_model", "lm_head"]


def train_vision(out: Path, seed: int, steps: int, device: torch.device) -> None:
    """Stage 1: the tower learns what each patch shows and, from [CLS], which classes are present."""
    model: Any = build_model(seed)
    seer = vision.Seer(model.model.vision_tower, BACKGROUND + 1).to(device)
    masters = Masters(seer, ["tower", "head"], 3e-3)
    weights = torch.ones(BACKGROUND + 1, device=device)
    weights[-1] = 0.2
    progress, stream = Progress("vision", steps), batches(1000 + seed, 64, count=1)
    while progress.running:
        batch = next(stream).to(device)
        patch, near, last = masters.work(batch.pixels)
        loss = F.cross_entropy(patch.flatten(0, 1), batch.patches.flatten(), weight=weights)
        total = loss + vision.presence_loss(near, last, batch.presence)
        hit = patch.argmax(-1) == batch.patches
        shape, digit = batch.patches < 36, (batch.patches >= 36) & (batch.patches < BACKGROUND)
        sure = ((near > 0) == (batch.presence > 0)).all(1)
        rate = progress.rate()
        masters.step(total, rate)
        progress.note(
            loss=loss.item(),
            shapes=hit[shape].float().mean().item(),
            digits=hit[digit].float().mean().item(),
            blank=hit[~shape & ~digit].float().mean().item(),
            cls=sure.float().mean().item(),
        )
    progress.record(out)
    save_file({k: v.cpu().contiguous() for k, v in seer.state_dict().items()}, out / "vision.safetensors")


def train_symbols(out: Path, seed: int, steps: int, device: torch.device) -> None:
    """Stage 2: the language model learns to answer from sums of its own word embeddings, without any pixels."""
    model: Any = build_model(seed)
    model.to(device)
    model.model.register_parameter("blank_embedding", nn.Parameter(0.3 * torch.randn(128, device=device)))
    masters = Masters(model, [*TEXT, "model.blank_embedding"], 3e-3)
    generator = torch.Generator().manual_seed(seed)
    progress, stream = Progress("symbols", steps), batches(2000 + seed, 32, pixels=False)
    while progress.running:
        batch = next(stream)
        kept = thin(batch.patches, 36, generator).to(device)
        batch = batch.to(device)
        work = masters.work
        visual = word_sum(work.get_input_embeddings().weight, work.model.blank_embedding, batch.patches)
        visual = visual.gather(1, kept[..., None].expand(-1, -1, visual.shape[-1]))
        visual = visual + 0.1 * torch.randn_like(visual)
        where, end, luck = kept, PATCHES, float(torch.rand((), generator=generator))
        if luck < 0.25:
            where, end = positions_for(36, len(kept), device, None)
        elif luck < 0.5:
            squeeze = 0.08 + 0.92 * float(torch.rand((), generator=generator))
            where, end = (kept * squeeze).long(), int(PATCHES * squeeze) + 1
        loss, figures = language_loss(work, visual, where, end, batch)
        masters.step(loss, progress.rate())
        progress.note(**figures)
    progress.record(out)
    wanted = {k: v for k, v in model.state_dict().items() if any(k.startswith(t) for t in (*TEXT, "model.blank"))}
    save_file({k: v.cpu().contiguous() for k, v in wanted.items()}, out / "symbols.safetensors")


def thin(patches: Tensor, count: int, generator: torch.Generator, things: bool = False) -> Tensor:
    """`count` random patches of each picture, at least one of every object: sorted int (B, count).

    things: ground is left out first.
    """
    luck = torch.rand(patches.shape, generator=generator)
    side = math.isqrt(patches.shape[1])
    place = torch.arange(side * side)
    cell = place // side * GRID // side * GRID + place % side * GRID // side
    shown = torch.where(patches == BACKGROUND, -1.0, luck)
    best = torch.full((len(patches), 16), -1.0).scatter_reduce(1, cell.expand(len(patches), -1), shown, "amax")
    first = (shown == best[:, cell]) & (shown >= 0)
    return (luck + 2 * first + (patches != BACKGROUND) * things).topk(count, dim=1).indices.sort(dim=1).values


def features(model: Any, pixels: Tensor) -> Tensor:
    """The visual tokens as LLaVA computes them: tower at layer -2 without [CLS], projected; (B, 144, hidden)."""
    return model.model.multi_modal_projector(vision.vision_states(model.model.vision_tower, pixels)[-2][:, 1:])


def train_regression(out: Path, seed: int, steps: int, device: torch.device) -> None:
    """Stage 3: tower and projector learn to give each patch the vector the language model has learnt to read."""
    model: Any = build_model(seed)
    model.to(device)
    seen = {f"model.vision_{k}": v for k, v in load(out / "vision.safetensors").items() if k.startswith("tower")}
    known = load(out / "symbols.safetensors")
    blank = known.pop("model.blank_embedding").to(device)
    model.load_state_dict({**model.state_dict(), **seen, **known})
    masters = Masters(model, ["model.vision_tower", "model.multi_modal_projector"], 2e-3)
    words = model.get_input_embeddings().weight.detach()
    progress, stream = Progress("regression", steps), batches(3000 + seed, 64, count=1)
    while progress.running:
        batch = next(stream).to(device)
        target = word_sum(words, blank, batch.patches)
        miss = (features(masters.work, batch.pixels).float() - target).square().mean(-1)
        thing = batch.patches != BACKGROUND
        loss = (miss * (1 + 4 * thing)).mean()
        masters.step(loss * 10, progress.rate())
        progress.note(
            object=miss[thing].mean().item(), background=miss[~thing].mean().item(), scale=target.var().item()
        )
    progress.record(out)
    save_model(model, out / "regression.safetensors")
