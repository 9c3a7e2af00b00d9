"""One stage: steps, checkpoints and a table as it goes; a stage that was stopped goes on from its last checkpoint."""

from __future__ import annotations

import csv
import io
import time
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vtokens.core.writing import write_text

from ..optim import Masters
from ..progress import rate_at
from ..smol import saved
from ..smol.showing import generator
from .course import COURSE, Stage
from .data import numbered
from .pupil import Pupil

EVERY = 50  #: steps between checkpoints
_MUON = "muon."


def run(
    stage: Stage,
    out: Path,
    seed: int,
    until: int | None = None,
    workers: int = 1,
    dtype: torch.dtype | None = None,
    course: Sequence[Stage] = COURSE,
) -> bool:
    """Train a stage, from its checkpoint in `out` if there is one; whether it is done.

    Args:
        until: the step to stop at, by default the stage's last.
        workers: processes that make batches, 0 for the training's own.
        dtype: what is computed in, by default what is fastest here.
        course: the stages that this one is of.

    Raises:
        ValueError: a stage that must come before has left nothing, or is not done.
    """
    path, number, pupil = out / f"{stage.name}.safetensors", course.index(stage), Pupil(seed)
    facts: dict[str, Any] = {"step": 0, "cpu_minutes": 0.0, "rows": []}
    if not path.exists():
        pupil.load_state_dict(inherited(stage, out, course), strict=False)
    else:
        saved.load(path, pupil)
    masters = Masters(pupil, list(stage.trained), stage.rate, dtype=dtype)
    if path.exists():
        facts = saved.restore(path, pupil, masters.adam)
        for key, value in saved.tensors(path, _MUON).items():
            masters.momenta[tuple(int(n) for n in key.split("x"))].copy_(value)
    step, end = int(facts["step"]), min(stage.steps, until or stage.steps)
    batches = numbered(partial(stage.make, 1000 * (number + 1) + seed), step, end, workers)
    spent, start, recent = float(facts["cpu_minutes"]), time.process_time(), defaultdict[str, list[float]](list)
    for made in batches:
        loss, figures = stage.loss(masters.work, made, generator(seed, number, step))
        masters.step(loss, rate_at(step / stage.steps))
        step += 1
        for key, share in figures.items():
            if share == share:  # a kind that nobody was asked about has no share
                recent[key].append(share)
        if step % EVERY == 0 or step == end:
            row: dict[str, Any] = {"stage": stage.name, "step": step}
            row["cpu_minutes"] = round(spent + (time.process_time() - start) / 60, 2)
            row |= {key: round(sum(found) / len(found), 3) for key, found in recent.items()}
            facts = {"step": step, "cpu_minutes": row["cpu_minutes"], "rows": [*facts["rows"], row]}
            more = {_MUON + "x".join(map(str, shape)): m.clone() for shape, m in masters.momenta.items()}
            saved.write(path, pupil, masters.adam, facts, more=more)
            table(out, course)
            print(" ".join(f"{k} {v}" for k, v in row.items()), flush=True)
            recent.clear()
    return step >= stage.steps


def inherited(stage: Stage, out: Path, course: Sequence[Stage]) -> dict[str, torch.Tensor]:
    """What a stage begins with: the tensors that those before it left."""
    found: dict[str, torch.Tensor] = {}
    for name, parts in stage.after.items():
        path = out / f"{name}.safetensors"
        steps = next(s.steps for s in course if s.name == name)
        done = saved.facts(path)["step"] if path.exists() else 0
        if done < steps:
            raise ValueError(f"run the stage {name!r} first: {path} is at step {done} of {steps}")
        found |= {k: v for k, v in saved.tensors(path).items() if k.startswith(parts)}
    return found


def table(out: Path, course: Sequence[Stage]) -> None:
    """Write the figures of all stages in `out` as training.csv: means over the steps since the line before, on scenes
    that were shown in that step for the first and the last time."""
    names = [stage.name for stage in course]
    paths = [out / f"{name}.safetensors" for name in names]
    rows = [row for path in paths if path.exists() for row in saved.facts(path)["rows"]]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(out / "training.csv", text.getvalue())
