"""Imports that may fail, hang or take the interpreter along are tried in a process of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import vtokens

_SECONDS = 180


def run(module: str, *arguments: str) -> tuple[list[dict[str, Any]], str]:
    """Run a module of this package as a program.

    Returns:
        The JSON objects that it printed, one a line, and what went wrong: the error it ended with, "" if it ended well.
    """
    # At the end: whatever the user has put in front of the installed packages has to stay there.
    path = [p for p in (os.environ.get("PYTHONPATH", ""), str(Path(vtokens.__file__).parents[1])) if p]
    settings = {"PYTHONPATH": os.pathsep.join(path), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-P", "-m", f"vtokens.doctor.{module}", *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_SECONDS, env={**os.environ, **settings}
        )
    except subprocess.TimeoutExpired:
        return [], f"no answer within {_SECONDS} seconds"
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    said = done.stderr.strip().splitlines()
    frames = [number for number, line in enumerate(said) if line.startswith(" ")]
    fault = " ".join(" ".join(said[frames[-1] + 1 :] if frames else said).split())
    if done.returncode < 0:
        return found, f"the process was ended by {signal.Signals(-done.returncode).name}"
    return found, "" if done.returncode == 0 else fault or f"exit code {done.returncode}"
