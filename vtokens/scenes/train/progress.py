"""How far a stage of training is, the learning rate that follows, the log; and the weights between stages."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor


class Progress:
    """How far a stage is: the share of its steps that are done, the learning rate that follows from it, and the log.

    Stages end after steps, not minutes, so that a seed gives much the same model on a slow machine as on a fast one.
    """

    def __init__(self, name: str, steps: int) -> None:
        self.name, self.total, self.steps = name, steps, 0
        self.start, self.next = time.monotonic(), 0.0
        self.sums: dict[str, list[float]] = {}

    @property
    def running(self) -> bool:
        """True until the last step is done."""
        return self.steps < self.total

    def rate(self) -> float:
        """The share of the full learning rate that is due now."""
        return rate_at(self.steps / self.total)

    def note(self, **figures: float) -> None:
        """Count a step; print the means of the figures about every 20 seconds."""
        self.steps += 1
        for key, value in figures.items():
            if value == value:
                self.sums.setdefault(key, []).append(value)
        spent = time.monotonic() - self.start
        if spent > self.next or not self.running:
            self.next = spent + 20
            means = " ".join(f"{k} {sum(v) / len(v):.3f}" for k, v in self.sums.items())
            print(f"{self.name} {self.steps}/{self.total} {spent / 60:.1f} min: {means}", flush=True)
            self.sums = {}

    def record(self, out: Path) -> None:
        """Leave minutes and steps beside the stage's weights, for the model card."""
        facts = {
            "minutes": round((time.monotonic() - self.start) / 60, 1),
            "steps": self.steps,
            "threads": torch.get_num_threads(),
        }
        (out / f"{self.name}.json").write_text(json.dumps(facts) + "\n")


def rate_at(spent: float) -> float:
    """The share of the full learning rate after a share of a stage: up over 2% of it, then a cosine down to 2%."""
    return min(1.0, spent / 0.02 + 0.02) * (0.02 + 0.49 * (1 + math.cos(math.pi * min(1.0, spent))))


def save_model(model: Any, path: Path) -> None:
    """Write all tensors of `model`, without a Hugging Face folder around them."""
    save_file({k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}, path)


def load(path: Path) -> dict[str, Tensor]:
    """The tensors a stage has left; ValueError if it has not run."""
    if not path.exists():
        raise ValueError(f"{path} is missing: run the stage {path.stem!r} first")
    return load_file(str(path))
