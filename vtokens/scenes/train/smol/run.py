"""One stage: steps, checkpoints and figures as it goes; a stage that was stopped goes on from its last checkpoint."""

from __future__ import annotations

import csv
import io
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vtokens.core.writing import write_text

from ...photographs import check_photographs
from . import asking, saved
from .course import COURSE, Stage
from .pupil import Pupil
from .showing import generator

EVERY = 50  #: steps between checkpoints
_WATCHED = 12  # scenes behind the figures on the way
_AT_END = 48  # and at the end of a stage
_WARM = 20  # steps until the learning rate is reached
_CLIP = 1.0


def names() -> list[str]:
    return [stage.name for stage in COURSE]


def seeing() -> list[str]:
    """The stages whose checkpoints hold a trained tower and projector, so that a model can be made of them."""
    return [stage.name for stage in COURSE if stage.shown != "symbols"]


def unseen(stage: Stage) -> str | None:
    """What the checkpoints of a stage leave out: tower and projector, the head of letters, until these were trained."""
    if stage.shown == "symbols":
        return "sight."
    return None if stage.worlds else "sight.letters."


def run(stage: Stage, out: Path, pupil: Pupil, seed: int, until: int | None = None) -> bool:
    """Train a stage, from its checkpoint in `out` if there is one; whether it is done.

    Args:
        until: the step to stop at, by default the stage's last.
    """
    if stage.worlds:
        for split in ("train", "calibration"):
            check_photographs(split)
    number, path = names().index(stage.name), out / f"{stage.name}.safetensors"
    adam = torch.optim.AdamW(pupil.groups(stage), betas=(0.9, 0.99), weight_decay=0.0)
    facts: dict[str, Any] = {"step": 0, "cpu_minutes": 0.0, "rows": []}
    if path.exists():
        facts = saved.restore(path, pupil, adam, unseen(stage))
    end, step = min(stage.steps, until or stage.steps), int(facts["step"])
    spent, start, recent = float(facts["cpu_minutes"]), time.process_time(), _Recent()
    while step < end:
        loss, judged, norm = _step(stage, number, step, seed, pupil, adam)
        step += 1
        recent.note(loss, judged)
        if step % 10 == 0:
            minutes = spent + (time.process_time() - start) / 60
            print(
                f"{stage.name} {step}/{stage.steps} cpu {minutes:.1f} min norm {norm:.1f} {recent.told()}", flush=True
            )
            recent = _Recent()
        if step % EVERY == 0 or step == end:
            scenes = _AT_END if step == stage.steps else _WATCHED
            minutes = spent + (time.process_time() - start) / 60
            row = {
                "stage": stage.name,
                "step": step,
                "pictures": step * stage.pictures,
                "cpu_minutes": round(minutes, 2),
            }
            row |= {k: round(v, 3) for k, v in watch(stage, step, pupil, scenes).items()}
            facts = {
                "step": step,
                "cpu_minutes": spent + (time.process_time() - start) / 60,
                "rows": [*facts["rows"], row],
            }
            saved.write(path, pupil, adam, facts, unseen(stage))
            table(out)
            print("  " + " ".join(f"{k} {v}" for k, v in row.items()), flush=True)
    return step >= stage.steps


def _step(stage: Stage, number: int, step: int, seed: int, pupil: Pupil, adam: Any) -> tuple[float, list, float]:
    rate = min(1.0, (step + 1) / _WARM) * (1 - (1 - stage.floor) * step / stage.steps)
    for group in adam.param_groups:
        group["lr"] = group["full"] * rate
    scenes, asked = asking.training(stage, number, step, seed, pupil.speaker)
    loss, judged = pupil.loss(stage, scenes, asked, step / stage.steps, generator(seed, number, step))
    adam.zero_grad(set_to_none=True)
    loss.backward()
    trained = [p for group in adam.param_groups for p in group["params"]]
    norm = float(nn.utils.clip_grad_norm_(trained, _CLIP))
    adam.step()
    return loss.item(), judged, norm


@torch.no_grad()
def watch(stage: Stage, step: int, pupil: Pupil, scenes: int, at_once: int = 4) -> dict[str, float]:
    """The share of right answers a kind, teacher-forced, about scenes that no stage trains on."""
    hits: dict[str, list[bool]] = defaultdict(list)
    for first in range(0, scenes, at_once):
        drawn, asked = asking.watched(first, at_once, pupil.speaker)
        _, judged = pupil.loss(stage, drawn, asked, step / stage.steps, generator(1, first), watching=True)
        for kind, right in judged:
            hits[kind].append(right)
        for drawn, asked in asking.watched_worlds(first, at_once, pupil.speaker) if stage.worlds else ():
            _, judged = pupil.loss(stage, drawn, asked, step / stage.steps, generator(1, first), watching=True)
            for kind, right in judged:
                hits[kind].append(right)
    return {kind: sum(found) / len(found) for kind, found in sorted(hits.items())}


def table(out: Path) -> None:
    """Write the figures of all stages in `out` as validation.csv."""
    rows = [
        row
        for name in names()
        if (out / f"{name}.safetensors").exists()
        for row in saved.facts(out / f"{name}.safetensors")["rows"]
    ]
    fields = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(out / "validation.csv", text.getvalue())


class _Recent:
    """Means since the last line of the log."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.hits: dict[str, list[bool]] = defaultdict(list)

    def note(self, loss: float, judged: Iterable[tuple[str, bool]]) -> None:
        self.losses.append(loss)
        for kind, right in judged:
            self.hits[kind].append(right)

    def told(self) -> str:
        shares = " ".join(f"{k} {sum(v) / len(v):.2f}" for k, v in sorted(self.hits.items()))
        return f"loss {sum(self.losses) / len(self.losses):.3f} {shares}"
