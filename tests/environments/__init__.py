"""Environments that differ from the tests' own in a package or two: overlays that `pip install --target` fills.

Each is a folder in front of the others on the path of a new interpreter, so nothing that is installed changes. They are
kept beside the installed packages and used again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_KEPT = Path(sys.prefix) / "overlays"
_PIP = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]


def overlay(*requirements: str) -> Path:
    """A folder with these distributions, without what they ask for; the test is skipped where pip cannot get them."""
    folder = _KEPT / hashlib.sha256(" ".join(requirements).encode()).hexdigest()[:12]
    if folder.is_dir():
        return folder
    _KEPT.mkdir(exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=_KEPT))
    done = subprocess.run([*_PIP, "--target", str(made), *requirements], capture_output=True, text=True, timeout=300)
    if done.returncode:
        shutil.rmtree(made)
        pytest.skip(f"pip cannot get {', '.join(requirements)}: {done.stderr.strip().splitlines()[-1]}")
    try:
        made.rename(folder)
    except OSError:  # another process was quicker
        shutil.rmtree(made)
    return folder


def python(*arguments: str, over: Sequence[Path] = (), **environment: str) -> subprocess.CompletedProcess[str]:
    """Run an interpreter that sees the overlays, the first one in front, and this checkout."""
    path = os.pathsep.join(map(str, [*over, ROOT, *filter(None, [os.environ.get("PYTHONPATH")])]))
    settings = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "default"}
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=_KEPT.parent,
        env={**os.environ, **settings, **environment},
    )
