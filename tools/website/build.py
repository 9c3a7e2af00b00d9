"""Builds the documentation's site into site/, or shows it while pages are written: `build.py build`, `... serve`."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NEEDED = {
    "mkdocs": "mkdocs",
    "material": "mkdocs-material",
    "mkdocstrings": "mkdocstrings",
    "mkdocstrings_handlers.python": "mkdocstrings-python",
}
INSTALL = "make setup, or pip install -e '.[dev]'"


def missing() -> list[str]:
    """What a build needs and is not installed, by the names of packages."""
    return [package for module, package in NEEDED.items() if not _found(module)]


def _found(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:  # the package around it is missing
        return False


def main(arguments: list[str]) -> int:
    """Hand the rest to mkdocs; the exit status is its own, or 2 where something is missing."""
    lacking = missing()
    if lacking:
        print(f"the documentation needs {', '.join(lacking)}: install with {INSTALL}", file=sys.stderr)
        return 2
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    environment["NO_MKDOCS_2_WARNING"] = "1"  # advice of the theme about another program, printed before every build
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", *arguments], cwd=ROOT, env=environment, check=False
    ).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
