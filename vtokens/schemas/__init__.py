"""What our own files may hold: a schema for each kind, against which a file is checked before anything is made of it.

The schemas are pydantic models, which the extra `filter` brings: they are imported where a user's file is read and
nowhere else. What ships in the package is read without them; a test holds it against them.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from vtokens.core.errors import shorten, unknown
from vtokens.core.extras import needs
from vtokens.core.reading import MEBIBYTE, read_json

KINDS = {
    "sinks": "tables.SinksFile",
    "thresholds": "tables.ThresholdsFile",
    "patterns": "tables.PatternsFile",
    "choices": "tables.ChoicesFile",
    "filter": "filters.FilterFile",
    "calibrator": "filters.CalibratorFile",
    "record": "rows.RecordLine",
    "settings": "rows.SettingsFile",
    "filtered": "rows.FilteredLine",
    "rejected": "rows.RejectedLine",
    "instances": "coco.InstancesFile",
    "captions": "coco.CaptionsFile",
    "manifest": "sweeps.ManifestFile",
    "answer": "sweeps.AnswerLine",
    "sample": "sweeps.SampleLine",
    "result": "sweeps.ResultLine",
    "summary": "sweeps.SummaryRow",
    "profile": "profiles.ProfileFile",
}
"""By kind of file, or of line, the class of its schema."""
_MOST = 64 * MEBIBYTE
_LONGEST = 200  # characters of what pydantic says, which may repeat the input


def load(path: str | Path, kind: str, version: tuple[str, int] | None = None, most: int = _MOST) -> Any:
    """The content of a JSON file of a kind, as it was read; every field is there, of its type and in its range.

    Args:
        path: a regular file.
        kind: one of `KINDS`.
        version: the field that holds the file's version, and the one that is read.
        most: bytes that are read.

    Raises:
        ImportError: pydantic is missing; says what to install.
        OSError: no such file, or no regular one.
        ValueError: too large, no JSON, another version, or the field that is wrong, what it holds and what is allowed.
    """
    content = read_json(path, most)
    if version is not None and isinstance(content, dict) and version[0] in content:
        name, known = version
        if content[name] != known or isinstance(content[name], bool):
            raise ValueError(f"{name} {shorten(content[name])}, this release reads {known}")
    return check(content, kind)


def check(content: Any, kind: str) -> Any:
    """Return what JSON held if it is of a kind; raises as `load`."""
    if kind not in KINDS:
        raise unknown("kind of file", kind, KINDS)
    module, name = KINDS[kind].split(".")
    with needs("filter", f"reading a file of the kind {kind!r}"):
        from pydantic import ValidationError
    schema = getattr(importlib.import_module(f"vtokens.schemas.{module}"), name)
    try:
        schema.model_validate(content)
    except ValidationError as error:
        raise ValueError(_told(error.errors(include_url=False)[0])) from error
    return content


def _told(error: Any) -> str:
    """The first thing that is wrong: where, what is allowed, and what is there."""
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{shorten(part, 60)[1:-1]}" for part in error["loc"])
    place = place.lstrip(".")
    if error["type"] == "value_error":
        return f"{place}: {error['ctx']['error']}".removeprefix(": ")
    place = place or "the content"
    if error["type"] == "missing":
        return f"{place} is missing"
    if error["type"] == "extra_forbidden":
        return f"there is no field {shorten(error['loc'][-1], 60)}" + (f": {place}" if len(error["loc"]) > 1 else "")
    reason = "Input should be an object" if error["type"] in ("model_type", "dict_type") else error["msg"]
    reason = reason if len(reason) <= _LONGEST else f"{reason[:_LONGEST]} ..."
    reason = (
        f" {reason.removeprefix('Input ')}"
        if reason.startswith("Input should")
        else f": {reason[:1].lower()}{reason[1:]}"
    )
    return f"{place}{reason}, got {shorten(error['input'], 60)}"
