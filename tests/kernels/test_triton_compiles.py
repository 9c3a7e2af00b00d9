"""Every Triton kernel compiles for a GPU: what the interpreter lets pass, the compiler may not."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
SHARED = 227 * 1024
"""Bytes of shared memory a program may have on an H100."""


@pytest.mark.parametrize(
    ("program", "variants"),
    [
        (["compiled", "attention"], 8),
        (["compiled", "others"], 16),
        (["compiled_selection"], 10),
        pytest.param(["compiled_sparse"], 12, marks=pytest.mark.slow),
    ],
)
def test_kernels_compile_without_spilling(program: list[str], variants: int, tmp_path: Path) -> None:
    """In a process without the interpreter; registers that do not suffice show as local memory."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    module, *part = program
    command = [sys.executable, "-m", f"tests.kernels.{module}", *part, str(tmp_path / "kernel.cubin")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == variants
    for line in lines:
        local, shared = re.search(r"LOCAL:(\d+)", line), re.search(r"SHARED:(\d+)", line)
        assert local is not None, line
        assert shared is not None, line
        assert int(local[1]) == 0, line
        assert int(shared[1]) <= SHARED, line
