"""State of the engine does not change behind anybody's back: what is in `engine/state` is written when it is made."""

from __future__ import annotations

import ast
from pathlib import Path

import vtokens

STATE = Path(vtokens.__file__).parent / "engine" / "state"
IN_PLACE = {"TrackedLayer", "CrossKeys", "RoomyLayer"}
"""Caches of transformers change layers in place (crops, beams, resets), and so do layers that wrap or replace them."""


def written_later(cls: ast.ClassDef) -> list[str]:
    """`method: self.name` for each attribute of itself that a class sets outside `__init__`."""
    found = []
    for method in cls.body:
        if isinstance(method, ast.FunctionDef) and method.name != "__init__" and method.args.args:
            own = method.args.args[0].arg
            for node in ast.walk(method):
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del):
                    base = node.value
                    while isinstance(base, ast.Attribute | ast.Subscript):
                        base = base.value
                    if isinstance(base, ast.Name) and base.id == own:
                        found.append(f"{method.name}: {ast.unparse(node)}")
    return found


def test_state_is_written_when_it_is_made() -> None:
    """No class sets an attribute of itself later; what only looks like one of the exceptions is none."""
    found = {}
    for file in STATE.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef) and (later := written_later(node)):
                found[node.name] = later
    assert found.keys() == IN_PLACE, found
