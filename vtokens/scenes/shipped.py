"""Where the files of the models lie that travel with the package."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent / "weights"  #: one folder a model
