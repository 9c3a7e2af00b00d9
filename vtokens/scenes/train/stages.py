"""The six stages of the recipe; each starts from the stage before and leaves its weights as safetensors."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..model import WORDS, build_model
from ..questions import KINDS
from ..render import BACKGROUND
from ..world import COLOURS, COLUMNS, NUMBERS, ROWS, SHAPES
from . import packed, vision
from .data import Batch, batches
from .optim import Masters

MINUTES = {"vision": 14.0, "symbols": 14.0, "regression": 6.0, "joint": 18.0, "dose": 16.0, "partners": 5.0}
PATCHES = 144
TEXT = ["model.language_model", "lm_head"]


class Clock:
    """The share of a stage's minutes that is spent, the learning rate that follows from it, and the log."""

    def __init__(self, name: str, minutes: float) -> None:
        self.name, self.total, self.start, self.steps, self.next = name, minutes * 60, time.monotonic(), 0, 0.0
        self.sums: dict[str, list[float]] = {}

    @property
    def spent(self) -> float:
        return (time.monotonic() - self.start) / self.total

    @property
    def running(self) -> bool:
        """True until the minutes are spent; a stage makes at least one step."""
        return self.steps == 0 or self.spent < 1

    def rate(self) -> float:
        """Warm-up over 2% of the time, then a cosine down to 2%."""
        return min(1.0, self.spent / 0.02 + 0.02) * (0.02 + 0.49 * (1 + math.cos(math.pi * min(1.0, self.spent))))

    def note(self, **figures: float) -> None:
        """Count a step; print the means of the figures about every 20 seconds."""
        self.steps += 1
        for key, value in figures.items():
            if value == value:
                self.sums.setdefault(key, []).append(value)
        if time.monotonic() - self.start > self.next or self.spent >= 1:
            self.next = time.monotonic() - self.start + 20
            means = " ".join(f"{k} {sum(v) / len(v):.3f}" for k, v in self.sums.items())
            print(f"{self.name} {self.spent * self.total / 60:.1f} min, step {self.steps}: {means}", flush=True)
            self.sums = {}

    def record(self, out: Path) -> None:
        """Leave minutes and steps beside the stage's weights, for the model card."""
        facts = {
            "minutes": round(self.spent * self.total / 60, 1),
            "steps": self.steps,
            "threads": torch.get_num_threads(),
        }
        (out / f"{self.name}.json").write_text(json.dumps(facts) + "\n")


def compile_layers() -> None:
    """Compile both layer functions; without a C++ compiler training runs as it is, at half the speed."""
    packed.run_layer = torch.compile(packed._layer, dynamic=False)
    vision.run_layer = torch.compile(vision._layer, dynamic=False)


def word_sum(words: Tensor, blank: Tensor, patches: Tensor) -> Tensor:
    """The vectors that stand for patches: E[colour] + E[shape] + E[row] + E[column] of what is there, or `blank`.

    words: (V, hidden) word embeddings; blank: (hidden,); patches: int (B, 144) classes. Returns (B, 144, hidden).
    """
    ids = {w: i for i, w in enumerate(WORDS)}
    first = [ids[c] for c in COLOURS for _ in SHAPES] + [ids["digit"]] * 10 + [0]
    second = [ids[s] for _ in COLOURS for s in SHAPES] + [ids[n] for n in NUMBERS] + [0]
    rows = [ids[ROWS[p // 12 // 3]] for p in range(PATCHES)]
    columns = [ids[COLUMNS[p % 12 // 3]] for p in range(PATCHES)]
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


def language_loss(model: Any, visual: Tensor, where: Tensor, end: int, batch: Batch) -> tuple[Tensor, dict[str, float]]:
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


def train_vision(out: Path, seed: int, minutes: float, device: torch.device) -> None:
    """Stage 1: the tower learns what each patch shows and, from [CLS], which classes are present."""
    model: Any = build_model(seed)
    seer = vision.Seer(model.model.vision_tower, BACKGROUND + 1).to(device)
    masters = Masters(seer, ["tower", "head"], 3e-3)
    weights = torch.ones(BACKGROUND + 1, device=device)
    weights[-1] = 0.2
    clock, stream = Clock("vision", minutes), batches(1000 + seed, 64, count=1)
    while clock.running:
        batch = next(stream).to(device)
        patch, near, last = masters.work(batch.pixels)
        loss = F.cross_entropy(patch.flatten(0, 1), batch.patches.flatten(), weight=weights)
        total = (
            loss
            + F.binary_cross_entropy_with_logits(near, batch.presence)
            + F.binary_cross_entropy_with_logits(last, batch.presence)
        )
        hit = patch.argmax(-1) == batch.patches
        shape, digit = batch.patches < 36, (batch.patches >= 36) & (batch.patches < BACKGROUND)
        sure = ((near > 0) == (batch.presence > 0)).all(1)
        rate = clock.rate()
        masters.step(total, rate)
        clock.note(
            loss=loss.item(),
            shapes=hit[shape].float().mean().item(),
            digits=hit[digit].float().mean().item(),
            blank=hit[~shape & ~digit].float().mean().item(),
            cls=sure.float().mean().item(),
        )
    clock.record(out)
    save_file({k: v.cpu().contiguous() for k, v in seer.state_dict().items()}, out / "vision.safetensors")


def train_symbols(out: Path, seed: int, minutes: float, device: torch.device) -> None:
    """Stage 2: the language model learns to answer from sums of its own word embeddings, without any pixels."""
    model: Any = build_model(seed)
    model.to(device)
    model.model.register_parameter("blank_embedding", nn.Parameter(0.3 * torch.randn(128, device=device)))
    masters = Masters(model, [*TEXT, "model.blank_embedding"], 3e-3)
    generator = torch.Generator().manual_seed(seed)
    clock, stream = Clock("symbols", minutes), batches(2000 + seed, 32, pixels=False)
    while clock.running:
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
        masters.step(loss, clock.rate())
        clock.note(**figures)
    clock.record(out)
    wanted = {k: v for k, v in model.state_dict().items() if any(k.startswith(t) for t in (*TEXT, "model.blank"))}
    save_file({k: v.cpu().contiguous() for k, v in wanted.items()}, out / "symbols.safetensors")


def thin(patches: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` random patches of each picture, at least one of every object: sorted int (B, count)."""
    luck = torch.rand(patches.shape, generator=generator)
    cell = torch.arange(PATCHES) // 12 // 3 * 4 + torch.arange(PATCHES) % 12 // 3
    shown = torch.where(patches == BACKGROUND, -1.0, luck)
    best = torch.full((len(patches), 16), -1.0).scatter_reduce(1, cell.expand(len(patches), -1), shown, "amax")
    first = (shown == best[:, cell]) & (shown >= 0)
    return (luck + 2 * first).topk(count, dim=1).indices.sort(dim=1).values


def features(model: Any, pixels: Tensor) -> Tensor:
    """The visual tokens as LLaVA computes them: tower at layer -2 without [CLS], projected; (B, 144, hidden)."""
    return model.model.multi_modal_projector(vision.vision_states(model.model.vision_tower, pixels)[-2][:, 1:])


def train_regression(out: Path, seed: int, minutes: float, device: torch.device) -> None:
    """Stage 3: tower and projector learn to give each patch the vector the language model has learnt to read."""
    model: Any = build_model(seed)
    model.to(device)
    seen = {f"model.vision_{k}": v for k, v in load(out / "vision.safetensors").items() if k.startswith("tower")}
    known = load(out / "symbols.safetensors")
    blank = known.pop("model.blank_embedding").to(device)
    model.load_state_dict({**model.state_dict(), **seen, **known})
    masters = Masters(model, ["model.vision_tower", "model.multi_modal_projector"], 2e-3)
    words = model.get_input_embeddings().weight.detach()
    clock, stream = Clock("regression", minutes), batches(3000 + seed, 64, count=1)
    while clock.running:
        batch = next(stream).to(device)
        target = word_sum(words, blank, batch.patches)
        miss = (features(masters.work, batch.pixels).float() - target).square().mean(-1)
        thing = batch.patches != BACKGROUND
        loss = (miss * (1 + 4 * thing)).mean()
        masters.step(loss * 10, clock.rate())
        clock.note(object=miss[thing].mean().item(), background=miss[~thing].mean().item(), scale=target.var().item())
    clock.record(out)
    save_model(model, out / "regression.safetensors")


def train_joint(out: Path, seed: int, minutes: float, device: torch.device) -> None:
    """Stage 4: everything together, from pixels to answers; a third of the batches with compressed positions."""
    _end_to_end(out, "regression", "joint", 4000 + seed, minutes, device, rate=1.5e-3, squeezed=1 / 3)


def train_dose(out: Path, seed: int, minutes: float, device: torch.device) -> None:
    """Stage 5: the annotation is the truth, invisible partners too; half of the batches compressed.

    What each patch shows is trained along: the digits are what the tower has learnt least by then.
    """
    _end_to_end(out, "joint", "dose", 5000 + seed, minutes, device, rate=8e-4, squeezed=0.5, annotated=True, look=0.3)


def train_partners(out: Path, seed: int, minutes: float, device: torch.device) -> None:
    """Stage 6: as stage 5, but every other scene holds a trigger, so that the doses leave their mark."""
    _end_to_end(
        out,
        "dose",
        "partners",
        6000 + seed,
        minutes,
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
    minutes: float,
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
    clock, stream = Clock(name, minutes), batches(seed, 16, annotated=annotated, triggered=triggered)
    while clock.running:
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
            cls = F.binary_cross_entropy_with_logits(near, batch.presence)
            cls = cls + F.binary_cross_entropy_with_logits(last, batch.presence)
            loss = loss + look * (seen + cls)
            figures |= {"look": seen.item(), "cls": cls.item()}
        masters.step(loss, clock.rate())
        clock.note(**figures)
        if clock.steps % 300 == 0:
            save_model(model, out / f"{name}-partial.safetensors")
    clock.record(out)
    save_model(model, out / f"{name}.safetensors")


def save_model(model: Any, path: Path) -> None:
    """Write all tensors of `model`, without a Hugging Face folder around them."""
    save_file({k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}, path)


Stage = Callable[[Path, int, float, torch.device], None]
STAGES: dict[str, Stage] = {
    "vision": train_vision,
    "symbols": train_symbols,
    "regression": train_regression,
    "joint": train_joint,
    "dose": train_dose,
    "partners": train_partners,
}


def load(path: Path) -> dict[str, Tensor]:
    """The tensors a stage has left; ValueError if it has not run."""
    if not path.exists():
        raise ValueError(f"{path} is missing: run the stage {path.stem!r} first")
    return load_file(str(path))
