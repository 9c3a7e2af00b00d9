"""Filters as files: signals, extractor, calibrator and calibration responses in one JSON file, never a pickle."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vtokens.core.errors import shorten
from vtokens.core.reading import read_json
from vtokens.core.writing import line, replacing
from vtokens.filter.calibrators.calibrator import Calibrator
from vtokens.filter.folder import NAMES, read_folder, write_folder
from vtokens.filter.guarantees.calibration import Calibration
from vtokens.filter.guarantees.setting import CalibrationSetting
from vtokens.schemas import check

_FORMAT = "vtokens filter"
SCHEMA = 1
SHIPPED = Path(__file__).parent / "calibrators"
"""Filters of the embedded models."""


@dataclass(frozen=True)
class Saved:
    """What a filter's file holds.

    Attributes:
        signals: names.
        extractor: name.
        calibrator: None if it was not fitted.
        calibration: None if it was not calibrated.
    """

    signals: tuple[str, ...]
    extractor: str
    calibrator: Calibrator | None
    calibration: Calibration | None


def write(path: str | Path, saved: Saved) -> Path:
    """Write a filter: one JSON file, in one step, if `path` ends in .json, and else a folder of JSON and safetensors.

    Raises:
        OSError: it cannot be written.
    """
    content: dict[str, Any] = {"format": _FORMAT, "schema": SCHEMA, "signals": list(saved.signals)}
    content["extractor"] = saved.extractor
    for name, part in (("calibrator", saved.calibrator), ("calibration", saved.calibration)):
        content[name] = None if part is None else part.to_dict()
    if Path(path).suffix.lower() != ".json":
        return write_folder(path, content)
    with replacing(Path(path)) as put:
        put(line(content))
    return Path(path)


def read_filter(path: str | Path) -> Saved:
    """Read a filter: a file, a folder, or a repository of the hub that holds such a folder.

    Raises:
        OSError: no such file, folder or repository.
        ValueError: a file that is none, or of another schema.
    """
    try:
        place = _on_hub(path) if _named_on_hub(path) else Path(path)
        content = read_folder(place) if os.path.isdir(place) else read_json(place)
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise TypeError("it does not say that it is one")
        if content.get("schema") != SCHEMA:
            raise TypeError(
                f"it has schema {shorten(content.get('schema'))} and this vtokens reads {SCHEMA}: make it again"
            )
        check(content, "filter")
        fitted, rows = content["calibrator"], content["calibration"]
        return Saved(
            tuple(content["signals"]),
            content["extractor"],
            None if fitted is None else Calibrator.from_dict(fitted),
            None if rows is None else Calibration.from_dict(rows),
        )
    except (ValueError, TypeError) as error:
        raise ValueError(f"{shorten(str(path))} is no filter that can be read: {error}") from error


def _named_on_hub(path: str | Path) -> bool:
    """Whether a name is that of a repository, "owner/name", and no file or folder."""
    written = isinstance(path, str) and path.count("/") == 1 and not path.startswith((".", "/", "~"))
    return written and not os.path.exists(path) and not str(path).endswith(".json") and all(str(path).split("/"))


def _on_hub(name: str | Path) -> Path:
    """The folder of a repository, from the cache or downloaded; OSError if there is none."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(name), allow_patterns=list(NAMES)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise OSError(f"there is no file or folder {shorten(str(name))}, and no such repository: {error}") from error


def find(model: str, strategy: str) -> Saved | None:
    """The shipped filter of a model, by its fingerprint: that of the same strategy, or else of none; None if there is
    none for this model."""
    found = {setting.strategy: saved for setting, saved in _shipped() if setting.model == model}
    return found.get(strategy, found.get("none"))


def ships(calibrator: Calibrator) -> bool:
    """Whether a calibrator is one that ships, from wherever it was read."""
    content = calibrator.to_dict()
    return any(saved.calibrator is not None and saved.calibrator.to_dict() == content for _, saved in _shipped())


def ships_for(model_type: str) -> bool:
    """Whether any filter ships for a model of that family."""
    return any(setting.model.rpartition("-")[0] == model_type for setting, _ in _shipped())


def _shipped() -> Iterator[tuple[CalibrationSetting, Saved]]:
    for path in sorted(SHIPPED.glob("*.json")):
        saved = read_filter(path)
        setting = saved.calibrator.setting if saved.calibrator is not None else None
        if isinstance(setting, CalibrationSetting):
            yield setting, saved
