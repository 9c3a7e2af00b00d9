"""The models that ship with the package, by name."""

from __future__ import annotations

from pathlib import Path

from vtokens.core.errors import unknown

from .shipped import FOLDER


def embedded_models() -> list[str]:
    """Names of the models that ship with the package, sorted."""
    return sorted(p.parent.name for p in FOLDER.glob("*/config.json"))


def embedded_path(name: str) -> Path:
    """Folder of the embedded model `name`, a Hugging Face checkpoint; ValueError if there is none."""
    names = embedded_models()
    if name not in names:
        raise unknown("embedded model", name, names)
    return FOLDER / name
