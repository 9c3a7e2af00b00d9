"""The recipe: its stages in order, and the minutes of each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from . import packed, vision
from .endtoend import train_dose, train_joint, train_partners
from .pretraining import train_regression, train_symbols, train_vision

MINUTES = {"vision": 14.0, "symbols": 14.0, "regression": 6.0, "joint": 18.0, "dose": 16.0, "partners": 5.0}

Stage = Callable[[Path, int, float, torch.device], None]
STAGES: dict[str, Stage] = {
    "vision": train_vision,
    "symbols": train_symbols,
    "regression": train_regression,
    "joint": train_joint,
    "dose": train_dose,
    "partners": train_partners,
}


def compile_layers() -> None:
    """Compile both layer functions; without a C++ compiler training runs as it is, at half the speed."""
    packed.run_layer = torch.compile(packed._layer, dynamic=False)
    vision.run_layer = torch.compile(vision._layer, dynamic=False)
