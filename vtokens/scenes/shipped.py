"""The folder of the models that ship with the package."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent / "weights"  #: one folder a model
