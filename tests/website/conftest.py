"""The site, built once a run for all tests of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site, `vtokens` in a folder of its own, as the code host serves it."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base  # one build for all processes
    folder, done = base / "hosted" / "vtokens", base / "hosted" / "said"
    with FileLock(base / "hosted.lock"):
        if not done.exists():
            command = [sys.executable, "tools/website/build.py", "build", "--site-dir", str(folder)]
            built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
            done.parent.mkdir(exist_ok=True)
            done.write_text(f"{built.returncode}\n{built.stdout}{built.stderr}", encoding="utf-8")
    said = done.read_text(encoding="utf-8")
    assert said.startswith("0\n"), said
    return folder
