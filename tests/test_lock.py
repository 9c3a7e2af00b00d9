"""The lock files hold the whole closure of what pyproject.toml asks for, and name nothing for a device."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from . import installed

FOLDER = installed.ROOT / "requirements"
EXTRAS = ["core", *installed.PROJECT["optional-dependencies"]]
PYTHONS = ["3.11", "3.12", "3.13", "3.14"]
DEVICE = ("cuda", "intel", "nvidia", "pytorch-triton")  # what torch asks for beside itself, exactly, for a device


def pinned(extra: str, python: str | None = None) -> dict[str, str]:
    """The releases that the lock of an extra names on this platform, by distribution: for a Python's first release
    ("3.12"), or for the Python that runs. A lock may tell patch releases apart."""
    environment = default_environment()
    if python is not None:
        environment |= {"python_version": python, "python_full_version": f"{python}.0"}
    lines = [line for line in (FOLDER / f"{extra}.txt").read_text().splitlines() if line and line.lstrip()[0] != "#"]
    held = [one for one in map(Requirement, lines) if one.marker is None or one.marker.evaluate(environment)]
    return {canonicalize_name(one.name): str(one.specifier).removeprefix("==") for one in held}


def unmet(requirements: list[str], held: dict[str, str], extra: str = "") -> list[str]:
    """Which requirements a lock does not answer; our own extras are followed."""
    found = []
    for one in map(Requirement, requirements):
        name = canonicalize_name(one.name)
        if one.marker is not None and not one.marker.evaluate({"extra": extra}):
            continue
        if name == "vtokens":
            found += [text for wanted in one.extras for text in unmet(installed.asked(wanted), held)]
        elif name not in held or not one.specifier.contains(held[name], prereleases=True):
            found.append(f"{one} against {held.get(name)}")
    return found


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("extra", EXTRAS)
def test_what_pyproject_asks_for_is_pinned(extra, python):
    held = pinned(extra, python)
    wanted = installed.asked() + ([] if extra == "core" else installed.asked(extra))
    assert unmet(wanted, held) == []
    together = pinned("all", python)
    assert {name: together.get(name) for name in held} == held  # one world, whatever is installed of it


def test_what_packages_ask_for_is_pinned_too():
    """Told by the installed packages themselves, whatever made the lock."""
    held, checked = pinned("all"), 0
    for name, version in held.items():
        try:
            one = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        if one.version.partition("+")[0] == version:
            asked = [text for text in one.requires or [] if not text.startswith(DEVICE)]
            assert unmet(asked, held) == [], name
            checked += 1
    assert checked > 100


def test_the_environment_of_make_is_the_locked_one():
    """Everything that the extra `dev` brings is here at its locked release, and so is what make adds to it."""
    stamp = Path(sys.prefix) / ".installed"
    if not stamp.exists() or stamp.stat().st_mtime < (FOLDER / "all.txt").stat().st_mtime:
        pytest.skip("make did not build this environment, or from another lock")
    held = pinned("all")
    brought = {*installed.closure(["vtokens[dev]", "torch"]), "lmms-eval"}
    if torch.version.cuda is None:
        brought |= {"triton"} & {one.name for one in metadata.distributions()}
    else:  # torch itself names the exact releases of its device's packages
        brought = {name for name in brought if not name.startswith((*DEVICE, "triton"))}
    here = {name: metadata.version(name).partition("+")[0] for name in brought}
    assert here == {name: held.get(name) for name in brought}


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.txt")), ids=lambda file: file.stem)
def test_no_lock_names_a_build_for_a_device(file: Path):
    assert not [line for line in file.read_text().splitlines() if line.startswith(DEVICE)]


def test_the_files_are_those_of_the_extras():
    assert {file.stem for file in FOLDER.glob("*.txt")} == {*EXTRAS, "all"}
