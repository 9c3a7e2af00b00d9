"""Models whose weights are in shards attach, answer as whole ones do, and are recognised by what their weights say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import vtokens
from tests.families import build


def test_fully_sharded_and_tensor_parallel_models(tmp_path: Path) -> None:
    """In a process of its own, since a process group belongs to the whole process."""
    command = [sys.executable, "-m", "tests.engine.sharded", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "all right" in done.stdout


def test_heads_that_are_spread_over_processes(tmp_path: Path) -> None:
    """Tensor parallelism by transformers, in two processes: what looks at heads is refused, the rest is right."""
    model, _ = build("llava")
    model.save_pretrained(tmp_path)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*torchrun, "-m", "tests.engine.spread", str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count("all right") == 2


@pytest.mark.parametrize("spec", ["none", "random(keep=0.5)", "fastv(keep=0.5, layer=1)", "cls(keep=0.5)"])
def test_parameters_of_no_size(spec: str) -> None:
    """What DeepSpeed's ZeRO-3 leaves of parameters between two uses: attaching reads none of them."""
    model = build("llava")[0]
    for parameter in model.parameters():
        parameter.data = torch.empty(0)
    vtokens.attach(model, spec).detach()
