"""No stage of a strategy waits for the device, but where it says so (`Needs.waits`)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import vtokens
from vtokens.core.on_device import on_device

Runs = Callable[[str], dict[str, list[dict[str, Any]]]]


@pytest.fixture(scope="module")
def runs() -> Runs:
    """What each strategy's stages do on a device, by its name; every device has a process, which runs them all once."""
    done: dict[str, dict[str, list[dict[str, Any]]]] = {}

    def on(device: str) -> dict[str, list[dict[str, Any]]]:
        if device not in done:
            command = [sys.executable, "-m", "tests.engine.away_stages", device]
            ended = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
            assert ended.returncode == 0, ended.stderr[-2000:]
            found: dict[str, list[dict[str, Any]]] = {}
            for line in ended.stdout.splitlines():
                row = json.loads(line)
                found.setdefault(row["name"], []).append(row)
            done[device] = found
        return done[device]

    return on


def check(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        assert not row["error"], row
        assert bool(row["waits"]) == bool(row["declared"]), row


@pytest.mark.parametrize("name", vtokens.strategies.list_strategies())
def test_no_stage_waits_on_a_device_that_is_not_there(name: str, runs: Runs) -> None:
    """What runs says that it would have waited exactly where `Needs.waits` says so, which is not to be out of date."""
    check(runs("away")[name])


@pytest.mark.gpu
@pytest.mark.parametrize("name", vtokens.strategies.list_strategies())
def test_no_stage_waits_on_a_gpu(name: str, runs: Runs) -> None:
    """The same where torch itself raises at a synchronisation."""
    check(runs("cuda")[name])


def test_the_device_that_is_not_there_knows_what_waits() -> None:
    """Each way to read a device is found, and what reads nothing passes."""
    ended = subprocess.run(
        [sys.executable, "-c", WAYS], capture_output=True, text=True, timeout=300, check=False
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert ended.stdout.split() == ["right"] * 22


WAYS = """
import torch
from tests.engine.away import Away, Elsewhere, Waits
from vtokens.core.on_device import on_device
x, device = Away(torch.arange(6.0).view(2, 3)), Away(torch.ones(1)).device
waiting = {
    "item": lambda: x.sum().item(), "list": lambda: x.tolist(), "bool": lambda: bool(x.any()),
    "int": lambda: int(x[0, 0]),
    "mask": lambda: x[x > 2], "nonzero": lambda: x.nonzero(), "unique": lambda: x.unique(), "cpu": lambda: x.cpu(),
    "to": lambda: torch.ones(3).to(device), "tensor": lambda: torch.tensor([1, 2], device=device),
    "repeat": lambda: x[0].repeat_interleave(x[0].long()), "svd": lambda: torch.linalg.svdvals(x),
    "eigh": lambda: torch.linalg.eigvalsh(x[:, :2]), "equal": lambda: torch.equal(x, x),
    "host index": lambda: x[:, torch.tensor([0, 1])], "put": lambda: x.clone().__setitem__(x > 2, x[x > 2]),
    "bincount": lambda: x[0].long().bincount(),
}
passing = {
    "sort": lambda: x.sort(1), "fill": lambda: x.masked_fill(x > 2, 0).sum(), "index": lambda: x[x[:, 0].long() * 0],
    "host": lambda: on_device([1, 2], device), "where": lambda: torch.where(x > 2, x, 0.0) @ x.T,
}
with Elsewhere() as mode:
    for name, act in {**waiting, **passing}.items():
        try:
            with mode.watched():
                act()
            print("right" if name in passing else name)
        except Waits:
            print("right" if name in waiting else name)
"""


def test_numbers_go_to_a_device_as_they_are() -> None:
    """A list, an array and a tensor keep their values and dtype, or get the one asked for."""
    cpu = torch.device("cpu")
    assert on_device([1, 2], cpu).dtype == torch.long
    assert on_device((), cpu, dtype=torch.long).dtype == torch.long
    assert on_device([True, False], cpu).tolist() == [True, False]
    array = np.array([[1.5, 2.0]])
    assert on_device(array, cpu).dtype == torch.float64
    assert torch.equal(on_device(torch.from_numpy(array), cpu, dtype=torch.float32), torch.tensor([[1.5, 2.0]]))
