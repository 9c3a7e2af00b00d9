"""Environments made of chosen packages of this one: folders of links, which a Python without site-packages is given."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import vtokens

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def asked(extra: str = "") -> list[str]:
    """What pyproject.toml asks for: the core without an extra, else what that extra lists."""
    return PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]


def closure(requirements: list[str]) -> set[str]:
    """The distributions that installing `requirements` brings, of those installed here; extras of ours are followed."""
    found: set[str] = set()
    open_ = [(Requirement(text), "") for text in requirements]
    while open_:
        one, extra = open_.pop()
        if one.marker is not None and not one.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(one.name)
        if name == "vtokens":
            open_ += [(Requirement(text), "") for wanted in one.extras for text in asked(wanted)]
        elif name not in found and (brought := _requires(name)) is not None:
            found.add(name)
            open_ += [(Requirement(text), wanted) for wanted in ("", *one.extras) for text in brought]
    return found


def linked(folder: Path, distributions: set[str]) -> Path:
    """`folder` with links to the files of installed distributions and to this checkout, whose metadata is written."""
    folder.mkdir()
    for name in distributions:
        one = metadata.distribution(name)
        for top in {Path(file).parts[0] for file in one.files or [] if ".." not in Path(file).parts}:
            if not (folder / top).exists() and Path(one.locate_file(top)).exists():
                (folder / top).symlink_to(one.locate_file(top))
    (folder / "vtokens").symlink_to(ROOT / "vtokens")
    ours(folder)
    return folder


def ours(folder: Path) -> None:
    """Write what an installation of this checkout would say of its requirements."""
    lines = [f"Requires-Dist: {text}" for text in asked()]
    for extra in PROJECT["optional-dependencies"]:
        for one in map(Requirement, asked(extra)):
            marker = f"extra == '{extra}'" if one.marker is None else f"({one.marker}) and extra == '{extra}'"
            one.marker = None
            lines += [f"Requires-Dist: {one} ; {marker}"]
    package(folder, "vtokens", vtokens.__version__, requires=lines)


def package(
    folder: Path, name: str, version: str, modules: dict[str, str] | None = None, requires: Sequence[str] = ()
) -> None:
    """A small distribution of one package in `folder`, with the text of its modules by file name."""
    for file, text in (modules or {}).items():
        (folder / name).mkdir(exist_ok=True)
        (folder / name / file).write_text(text)
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    heading = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    (info / "METADATA").write_text("\n".join([*heading, *requires]))
    (info / "top_level.txt").write_text(f"{name}\n")


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with the standard library and what is in `folder`, and nothing else."""
    kept = ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    environment |= {"PYTHONPATH": str(folder), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-S", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, timeout=300)


def _requires(name: str) -> list[str] | None:
    try:
        return metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return None
