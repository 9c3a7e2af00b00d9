"""Runs the engine and strategy tests on the releases at the ends of what pyproject.toml allows: `make test-matrix`.

Each cell is an overlay: a folder in front of the installed packages that holds one other release and what does not fit
it. What passed goes into requirements/tested.json, and a cell that passed is not run again until the code changes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from packaging.requirements import Requirement

from vtokens.core.versions import NEWEST, OLDEST

ROOT = Path(__file__).parent.parent
TABLE = ROOT / "requirements" / "tested.json"
OVERLAYS = Path(sys.prefix) / "matrix"
TESTS = ("tests/engine", "tests/strategies")
#: What differs between releases of transformers shows here first; `.ci/run` has minutes for it. Strategies see tensors
#: and no model, so what a release breaks is what a stage is given: a strategy or two of each stage are run, and, in
#: test_final_share, every pruner.
FAST = (
    "tests/test_compat.py", "tests/engine/test_cache.py", "tests/engine/test_generate.py",
    "tests/engine/test_generate_options.py", "tests/engine/test_lifecycle.py", "tests/engine/test_logits.py",
    "tests/engine/test_multiturn.py", "tests/engine/test_numerics.py", "tests/engine/test_oracles.py",
    "tests/serve/test_api.py", "tests/serve/test_tools.py",
    *(f"tests/strategies/test_{name}.py" for name in (
        "act", "census", "cls", "compositions", "contrast", "dola", "downsample", "dymu", "evs", "fade", "fastv",
        "final_share", "pixelprune", "restore", "shortv", "sofa", "vhr", "vista", "yopo",
    )),
)  # fmt: skip
CELLS = {
    "locked": (),
    "oldest": (f"transformers=={OLDEST[0]}.{OLDEST[1]}.0",),
    "newest": (f"transformers=={NEWEST[0]}.{NEWEST[1]}.*",),
    "torch-2.9": ("torch==2.9.1",),  # seven gigabytes; delete its folder when it has run
}
_PIP = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]


def main() -> None:
    """Run the cells asked for, each to its end; exit status 1 if one of them failed."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("cells", nargs="*", metavar="CELL", help=f"{', '.join(CELLS)} (default: the first three)")
    asked.add_argument("--workers", default="2", help="test processes (%(default)s)")
    asked.add_argument("--fast", action="store_true", help="few tests, and nothing is recorded")
    options = asked.parse_args()
    if unknown := set(options.cells) - set(CELLS):
        asked.error(f"no such cell: {', '.join(sorted(unknown))}; allowed: {', '.join(CELLS)}")
    failed = [name for name in options.cells or list(CELLS)[:3] if not _cell(name, options.workers, options.fast)]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def _cell(name: str, workers: str, fast: bool) -> bool:
    path = f"{overlay(OVERLAYS / name, list(CELLS[name]))}{os.pathsep}{ROOT}"
    environment = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
    row = {**_versions(environment), "sources": _digest(), "tests": list(TESTS)}
    table = json.loads(TABLE.read_text()) if TABLE.exists() else {}
    if not fast and table.get(name, {}).get("failed") == 0 and {**table[name], **row} == table[name]:
        print(f"{name}: kept, {table[name]['passed']} passed on {table[name]['date']}", flush=True)
        return True
    print(f"{name}: Python {row['python']}, torch {row['torch']}, transformers {row['transformers']}", flush=True)
    report = OVERLAYS / f"{name}.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-n", workers, f"--junitxml={report}", *(FAST if fast else TESTS)]
    began = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env=environment)
    if not fast and done.returncode in (0, 1):  # not where it was interrupted, or nothing was collected
        minutes = round((time.monotonic() - began) / 60, 1)
        row |= {**_counts(report), "minutes": minutes, "date": f"{datetime.now(UTC):%F}"}
        TABLE.write_text(json.dumps({**table, name: row}, indent=1) + "\n")
    return done.returncode == 0


def overlay(folder: Path, wanted: list[str]) -> Path:
    """The folder with `wanted` and with everything that the installed packages do not answer; made once."""
    if folder.is_dir():
        return folder
    made = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    while wanted:
        subprocess.run([*_PIP, "--upgrade", "--target", str(made), *wanted], check=True)
        wanted = sorted({str(one) for held in metadata.distributions(path=[str(made)]) for one in _unmet(held, made)})
    made.rename(folder)
    return folder


def _unmet(held: metadata.Distribution, folder: Path) -> list[Requirement]:
    """What a distribution asks for that is neither in the folder nor installed in a release that answers it."""
    found = []
    for one in map(Requirement, held.requires or []):
        if one.marker is None or one.marker.evaluate({"extra": ""}):
            has = next(iter(metadata.distributions(name=one.name, path=[str(folder), *sys.path])), None)
            if has is None or not one.specifier.contains(has.version, prereleases=True):
                one.marker = None
                found.append(one)
    return found


def _versions(environment: dict[str, str]) -> dict[str, Any]:
    code = "import torch, transformers; print(torch.__version__, transformers.__version__, torch.cuda.is_available())"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    torch, transformers, cuda = done.stdout.split()
    where = f"{platform.system()} {platform.machine()}"
    return {
        "python": platform.python_version(), "torch": torch, "transformers": transformers,
        "device": f"{where}, {'CUDA' if cuda == 'True' else 'CPU'}",
    }  # fmt: skip


def _digest() -> str:
    """What was tested: the code and the tests, whatever is committed of it."""
    files = [file for top in ("vtokens", "tests/families", *TESTS) for file in sorted((ROOT / top).rglob("*.py"))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def _counts(report: Path) -> dict[str, int]:
    found = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
    for suite in ElementTree.parse(report).getroot().iter("testsuite"):
        found = {key: count + int(suite.get(key, 0)) for key, count in found.items()}
    failed = found["failures"] + found["errors"]
    return {"passed": found["tests"] - failed - found["skipped"], "failed": failed, "skipped": found["skipped"]}


if __name__ == "__main__":
    main()
