"""Which releases fit each other: what was tested, and which torchvision goes with which torch. Nothing is imported."""

from __future__ import annotations

import functools
import importlib.util
import re
import warnings
from importlib import metadata
from pathlib import Path

OLDEST, NEWEST = (5, 19), (5, 24)  # of transformers, major and minor: what `make test-matrix` runs the tests on

_WHEELS = "https://download.pytorch.org/whl/"


def installed(distribution: str) -> str:
    """The installed release of a distribution, "" where there is none."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def build(package: str) -> str:
    """The release of torch or torchvision with what it was built for, "2.13.0+cpu"; "" where there is none.

    Read in the package's `version.py`: a wheel of the package index leaves the device out of its name.
    """
    text = _version_file(package)
    if text is None:
        return ""
    found = re.search(r"^__version__\s*=\s*['\"]([^'\"]+)", text, re.MULTILINE)
    return found[1] if found else installed(package)


def accelerator() -> str:
    """What the installed torch was built for: "CUDA 13.0", "ROCm 7.0", "XPU 20250302", or "CPU"; "" without torch."""
    text = _version_file("torch")
    if text is None:
        return ""
    for name, called in {"cuda": "CUDA", "hip": "ROCm", "xpu": "XPU"}.items():
        if found := re.search(rf"^{name}\b[^=\n]*=\s*['\"]([^'\"]+)", text, re.MULTILINE):
            return f"{called} {found[1]}"
    return "CPU"


def _version_file(package: str) -> str | None:
    """The text of a package's `version.py`, "" where it has none; None where the package is not installed."""
    try:
        spec = importlib.util.find_spec(package)
    except ValueError:  # a module in sys.modules that has no spec
        return None
    if spec is None:
        return None
    file = Path(spec.origin or "").with_name("version.py")
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""


def minor(version: str) -> tuple[int, int]:
    """The first two numbers of a release: (5, 24) for "5.24.0.dev0"; (0, 0) for what is no release."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def torchvision_for(torch: str) -> str:
    """The torchvision made for a release of torch, "0.28" for "2.13.0+cpu"; "" where the rule is not known."""
    major, number = minor(torch)
    return f"0.{number + 15}" if major == 2 else ""


def torchvision_fits(torch: str, torchvision: str) -> bool:
    """Whether two builds were made for each other: torchvision's release for torch's, and both for the same device."""
    fits = torchvision_for(torch)
    return minor(torchvision) == minor(fits) != (0, 0) and torch.partition("+")[2] == torchvision.partition("+")[2]


def torchvision_command(torch: str = "") -> str:
    """The command that installs the torchvision made for a torch, built for the same device.

    Args:
        torch: its release with the build, "2.13.0+cpu"; the installed one where nothing is given.
    """
    torch = torch or build("torch")
    fits, device = torchvision_for(torch), torch.partition("+")[2]
    return f"pip install {f'torchvision=={fits}.*' if fits else 'torchvision'!r}" + (
        f" --index-url {_WHEELS}{device}" if device else ""
    )


def untested(transformers: str) -> str:
    """What is to be said of a release of transformers that the tests are not run on, "" for one they are run on."""
    if OLDEST <= minor(transformers) <= NEWEST:
        return ""
    (major, oldest), (_, newest) = OLDEST, NEWEST
    return (
        f"transformers {transformers} is not among the releases that vtokens is tested with, {major}.{oldest} to "
        f"{major}.{newest}: `vtokens doctor` checks whether results are right with it; "
        f"pip install 'transformers>={major}.{oldest},<{major}.{newest + 1}' brings one that is tested"
    )


@functools.cache
def warn_if_untested(transformers: str) -> None:
    """Warn of a release of transformers that the tests are not run on, once in a process."""
    message = untested(transformers)
    if message:
        warnings.warn(message, stacklevel=4)
