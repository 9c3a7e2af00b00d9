"""The recipe: its stages in order, and the steps of each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from . import packed, vision
from .endtoend import train_dose, train_joint, train_partners
from .pretraining import train_regression, train_symbols, train_vision

STEPS = {"vision": 1440, "symbols": 740, "regression": 761, "joint": 995, "dose": 806, "partners": 669}

Stage = Callable[[Path, int, int, torch.device], None]
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
