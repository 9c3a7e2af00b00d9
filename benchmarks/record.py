"""What a stored table is read with: the command that made it, its seeds, versions, commit, date and processor.

Every folder under benchmarks/results has this in its `conditions.csv`; `benchmarks.common.write` refuses a result
without it. A field of a table that is older than this record says "unknown" where nobody wrote it down at the time.
"""

from __future__ import annotations

import datetime
import importlib
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
UNKNOWN = "unknown"
PACKAGES = ("vtokens", "torch", "transformers", "triton")
FIELDS = ("command", "date", "commit", "draws", "device", "versions")
_SOURCES = ("vtokens", "benchmarks", ":!benchmarks/results")


def record(draws: Sequence[int]) -> dict[str, Any]:
    """The fields of a table that is made now, all but the device.

    Args:
        draws: the seeds of all that is drawn: scenes, random weights, noise; empty where nothing is.
    """
    return {
        "command": command(sys.argv),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "draws": list(draws),
        "versions": {"python": platform.python_version(), **{name: _release(name) for name in PACKAGES}},
    }


def command(words: Sequence[str]) -> str:
    """What was run, as it is typed at the root of this tree."""
    program = Path(words[0])
    if program.is_absolute() and program.is_relative_to(ROOT):
        program = program.relative_to(ROOT)
    if program.name == "__main__.py":  # a package, `python -m`
        return shlex.join(["python", "-m", ".".join(program.parent.parts), *words[1:]])
    return shlex.join(["python", str(program), *words[1:]])


def commit() -> str:
    """The commit of this tree, with a plus where its code differs; "unknown" outside of a git repository."""
    git = ["git", "-C", str(ROOT)]
    try:
        name = subprocess.run([*git, "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", *_SOURCES], capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return UNKNOWN
    return name.stdout.strip() + ("+" if changed.returncode else "")


def lacking(conditions: Mapping[str, Any]) -> list[str]:
    """The fields that a table's conditions do not have; those of several models in one table each have their own."""
    found = []
    for about in parts(conditions):
        told = dict(about)
        told["device"] = told.get("device") or (told.get("hardware") or {}).get("cpu")
        told["command"] = told.get("command") or told.get("commands")
        told["date"] = told.get("date") or told.get("created")
        found += [name for name in FIELDS if told.get(name) in (None, "", {})]
        found += [f"versions/{name}" for name in ("python", *PACKAGES) if not (told.get("versions") or {}).get(name)]
    return list(dict.fromkeys(found))


def parts(conditions: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The conditions themselves, or those of each model where a table has rows of several."""
    inner = [part for part in conditions.values() if isinstance(part, Mapping) and "versions" in part]
    yield from inner if inner and "versions" not in conditions else [conditions]


def _release(name: str) -> str:
    if name in ("torch", "vtokens"):  # torch's metadata leave out what it was built for
        return str(importlib.import_module(name).__version__)
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"
