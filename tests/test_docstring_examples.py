"""The examples in docstrings of the package print what they say."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import vtokens

ROOT = Path(vtokens.__file__).parent
MODULES = [
    ".".join(("vtokens", *path.relative_to(ROOT).with_suffix("").parts))
    for path in sorted(ROOT.rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_print_what_they_say(name: str) -> None:
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted
    assert not found.failed
