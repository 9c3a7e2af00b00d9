"""`VTOKENS_KERNELS`: which implementation runs, and what is said where it cannot."""

import subprocess
import sys

import pytest
import torch

from vtokens.kernels import grouped_attention
from vtokens.kernels._dispatch import use_triton

CPU = torch.ones(2)


def test_auto_takes_the_reference_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unset or "auto": triton only where there is a GPU."""
    monkeypatch.delenv("VTOKENS_KERNELS", raising=False)
    assert not use_triton(CPU)
    monkeypatch.setenv("VTOKENS_KERNELS", "auto")
    assert not use_triton(CPU)


def test_a_choice_is_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    """ "triton" runs it on a CPU too, in the interpreter; "reference" never does."""
    pytest.importorskip("triton")
    monkeypatch.setenv("VTOKENS_KERNELS", "triton")
    assert use_triton(CPU)
    monkeypatch.setenv("VTOKENS_KERNELS", "reference")
    assert not use_triton(CPU)


def test_what_the_kernels_lack_is_the_references(monkeypatch: pytest.MonkeyPatch) -> None:
    """float64, and gradients where they are wanted."""
    pytest.importorskip("triton")
    monkeypatch.setenv("VTOKENS_KERNELS", "triton")
    weight = torch.ones(2, requires_grad=True)
    assert not use_triton(CPU.double())
    assert not use_triton(CPU, weight)
    with torch.no_grad():
        assert use_triton(CPU, weight)


def test_another_value_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A typo is answered with the nearest choice, by every kernel that dispatches."""
    monkeypatch.setenv("VTOKENS_KERNELS", "tritn")
    part = torch.ones(1, 1, 1, 4)
    with pytest.raises(ValueError, match=r"VTOKENS_KERNELS 'tritn'\. Did you mean 'triton'"):
        grouped_attention(part, part, part, torch.zeros(1, 1, dtype=torch.long), 1, 1.0)


@pytest.mark.parametrize(
    ("before", "said"),
    [
        ("sys.modules['triton'] = None", "triton is not installed: pip install 'vtokens[triton]'"),
        ("os.environ.pop('TRITON_INTERPRET', None)", "the tensors are on cpu: move them to a GPU"),
    ],
)
def test_forced_where_it_cannot_run(before: str, said: str) -> None:
    """Without triton, or on a CPU without the interpreter: the message says how it would run."""
    if "modules" not in before:
        pytest.importorskip("triton")
    code = f"""
import os, sys
{before}
os.environ['VTOKENS_KERNELS'] = 'triton'
import torch
from vtokens.kernels._dispatch import use_triton
use_triton(torch.ones(2))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "RuntimeError" in done.stderr
    assert said in done.stderr
