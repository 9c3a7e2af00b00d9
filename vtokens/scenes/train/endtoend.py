"""Stages 4 to 6: the whole model on pixels; the hallucination dose; scenes that hold a trigger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..model import build_model
from ..render import BACKGROUND
from . import vision
from .data import batches
from .losses import PATCHES, language_loss, positions_for
from .optim import Masters
from .progress import Progress, load, save_model


def train_joint(out: Path, seed: int, steps: int, device: torch.device) -> None:
    """Stage 4: everything together, from pixels to answers; a third of the batches with compressed positions."""
    _end_to_end(out, "regression", "joint", 4000 + seed, steps, device, rate=1.5e-3, squeezed=1 / 3)


def train_dose(out: Path, seed: int, steps: int, device: torch.device) -> None:
    """Stage 5: the annotation is the truth, invisible partners too; half of the batches compressed.

    What each patch shows is trained along: the digits are what the tower has learnt least by then.
    """
    _end_to_end(out, "joint", "dose", 5000 + seed, steps, device, rate=8e-4, squeezed=0.5, annotated=True, look=0.3)


def train_partners(out: Path, seed: int, steps: int, device: torch.device) -> None:
    """Stage 6: as stage 5, but every other scene holds a trigger, so that the doses leave their mark."""
    _end_to_end(
        out,
        "dose",
        "partners",
        6000 + seed,
        steps,
        device,
        rate=5e-4,
        squeezed=0.5,
        annotated=True,
        look=0.3,
        triggered=True,
    )


def _end_to_end(
    out: Path,
    before: str,
    name: str,
    seed: int,
    steps: int,
    device: torch.device,
    rate: float,
    squeezed: float,
    annotated: bool = False,
    look: float = 0.0,
    triggered: bool = False,
) -> None:
    model: Any = build_model(0)
    model.load_state_dict(load(out / f"{before}.safetensors"))
    seer = vision.Seer(model.model.vision_tower, BACKGROUND + 1)
    heads = {k: v for k, v in load(out / "vision.safetensors").items() if k.startswith("head")}
    seer.load_state_dict({**seer.state_dict(), **heads})
    # One module for the optimiser; the tower is the same object in both of its parts.
    both: Any = nn.ModuleDict({"llava": model, "head": seer.head}).to(device)
    masters = Masters(both, ["llava", "head"] if look else ["llava"], rate)
    weights = torch.ones(BACKGROUND + 1, device=device)
    weights[-1] = 0.2
    generator = torch.Generator().manual_seed(seed)
    progress, stream = Progress(name, steps), batches(seed, 16, annotated=annotated, triggered=triggered)
    while progress.running:
        batch = next(stream).to(device)
        work = masters.work["llava"]
        luck, squeeze = torch.rand(2, generator=generator).tolist()
        states = vision.vision_states(work.model.vision_tower, batch.pixels)
        visual = work.model.multi_modal_projector(states[-2][:, 1:])
        where, end = positions_for(PATCHES, len(visual), device, 0.08 + 0.92 * squeeze if luck < squeezed else None)
        loss, figures = language_loss(work, visual, where, end, batch)
        if look:
            heads = masters.work["head"]
            shown = heads["patch"](states[-2][:, 1:]).float()
            seen = F.cross_entropy(shown.flatten(0, 1), batch.patches.flatten(), weight=weights)
            # The language model never reads [CLS]: without a task of its own it would forget what the picture holds.
            near, last = heads["near"](states[-2][:, 0]).float(), heads["last"](states[-1][:, 0]).float()
            cls = vision.presence_loss(near, last, batch.presence)
            loss = loss + look * (seen + cls)
            figures |= {"look": seen.item(), "cls": cls.item()}
        masters.step(loss, progress.rate())
        progress.note(**figures)
        if progress.steps % 300 == 0:
            save_model(model, out / f"{name}-partial.safetensors")
    progress.record(out)
    save_model(model, out / f"{name}.safetensors")
