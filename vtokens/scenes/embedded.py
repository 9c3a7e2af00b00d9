"""The models that come with the package, by name."""

from __future__ import annotations

from pathlib import Path

from vtokens.core.errors import unknown

from .shipped import FOLDER
from .smol.folder import is_converted, shipped, smol_folder

_SMOL = "scenes-smol"


def embedded_models() -> list[str]:
    """Names of the models that come with the package, sorted."""
    whole = [p.parent.name for p in FOLDER.glob("*/config.json")]
    return sorted([*whole, _SMOL] if shipped().exists() else whole)


def is_embedded(name_or_path: str) -> bool:
    """Whether a model's `name_or_path` is that of one that comes with the package, by its name or its folder."""
    path = Path(name_or_path)
    return name_or_path in embedded_models() or path.parent == FOLDER or is_converted(path)


def embedded_path(name: str) -> Path:
    """Folder of the embedded model `name`, a Hugging Face checkpoint.

    That of scenes-smol is made in the cache the first time, from what ships and an installed package
    (`vtokens.scenes.smol.folder`).

    Raises:
        ValueError: there is none of that name, or the package holds another language model.
        MissingExtra: what scenes-smol is made of is not installed; the message says how it is.
    """
    names = embedded_models()
    if name not in names:
        raise unknown("embedded model", name, names)
    return smol_folder() if name == _SMOL else FOLDER / name
