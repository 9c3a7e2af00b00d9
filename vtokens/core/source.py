"""Registered classes as their source has them, read with `ast`: listing them imports neither them nor torch.

What the source does not say plainly is `Unread`, and has to be imported: a listing is slower then, never wrong.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import pkgutil
from collections.abc import Callable
from typing import TypeVar

from vtokens.core.written import RegisteredClass, Unread, name_of, value_of

T = TypeVar("T")
_PLAIN = (ast.AnnAssign, ast.Assign, ast.Expr, ast.FunctionDef, ast.Pass)


@functools.cache
def sources(package: str) -> dict[str, str | None]:
    """The source of each module of a package, by full name; None where only its bytecode is installed.

    Loaders are asked, not files, so that a package in a zip file is read too.
    """
    found: dict[str, str | None] = {}
    for info in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
        found[info.name] = _source(info.name)
    return found


def written(package: str, decorator: str, root: str, read: Callable[[RegisteredClass], T]) -> list[T]:
    """What the source of a package says of the classes that it registers.

    Modules of which that cannot be told are imported, so that their classes are registered, and left out.

    Args:
        package: its full name; importing it must not import its modules.
        decorator: the name of the class decorator that registers.
        root: the name of the class that all registered ones are made of.
        read: makes of such a class what is wanted; may raise `Unread`.
    """
    found: list[T] = []
    for module, source in sources(package).items():
        if source is None or decorator in source:
            try:
                found += [read(one) for one in _registered(module, decorator, root)]
            except Unread:
                importlib.import_module(module)
    return found


def import_naming(package: str, decorator: str, name: str) -> None:
    """Import those modules of a package that may register `name`: whoever does has it in quotes."""
    quoted = (f'"{name}"', f"'{name}'")
    for module, source in sources(package).items():
        if source is None or (decorator in source and any(one in source for one in quoted)):
            importlib.import_module(module)


def dataclasses_in(module: str) -> set[str] | None:
    """The names of the dataclasses that a module defines; None where its source is not there."""
    try:
        tree = _tree(module)
    except Unread:
        return None
    classes = (node for node in tree.body if isinstance(node, ast.ClassDef))
    return {
        one.name for one in classes if any(name_of(getattr(d, "func", d)) == "dataclass" for d in one.decorator_list)
    }


def _registered(module: str, decorator: str, root: str) -> list[RegisteredClass]:
    tree, found = _tree(module), []
    for node in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        calls = [one for one in node.decorator_list if isinstance(one, ast.Call) and name_of(one.func) == decorator]
        if calls:
            arguments = tuple(map(value_of, calls[0].args))
            keywords = {word.arg or "**": value_of(word.value) for word in calls[0].keywords}
            found.append(RegisteredClass(module, arguments, keywords, _lineage(module, node, root)))
            _check_plain(found[-1].lineage, decorator)
    named = [node for node in ast.walk(tree) if name_of(node) == decorator]
    renamed = [
        node for node in ast.walk(tree) if isinstance(node, ast.alias) and node.name == decorator and node.asname
    ]
    if len(named) != len(found) or renamed:  # somebody registers otherwise than by decorating a class of the module
        raise Unread
    return found


def _check_plain(lineage: tuple[ast.ClassDef, ...], decorator: str) -> None:
    """Raise `Unread` for classes that something else than their definitions makes."""
    for node in lineage:
        decorators = {name_of(getattr(one, "func", one)) for one in node.decorator_list}
        if not decorators <= {decorator, "dataclass"} or not all(isinstance(part, _PLAIN) for part in node.body):
            raise Unread


def _lineage(module: str, node: ast.ClassDef, root: str) -> tuple[ast.ClassDef, ...]:
    chain = [node]
    while [name_of(base) for base in node.bases] != [root]:
        if len(node.bases) != 1 or node.keywords:
            raise Unread
        module, node = _class(module, name_of(node.bases[0]))
        chain.append(node)
    return tuple(chain)


def _class(module: str, name: str) -> tuple[str, ast.ClassDef]:
    """The class that a module calls `name`, and the module of the same package that defines it."""
    for node in _tree(module).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return module, node
        if isinstance(node, ast.ImportFrom) and any((one.asname or one.name) == name for one in node.names):
            ours = not node.level and (node.module or "").partition(".")[0] == module.partition(".")[0]
            if ours and any(one.name == name for one in node.names):
                return _class(node.module or "", name)
    raise Unread


@functools.lru_cache(maxsize=8)
def _tree(module: str) -> ast.Module:
    source = _source(module)
    # Annotations are texts, as their source has them, only where the module defers them.
    if source is None or "from __future__ import annotations" not in source:
        raise Unread
    return ast.parse(source)


def _source(module: str) -> str | None:
    spec = importlib.util.find_spec(module)
    read = getattr(spec.loader if spec else None, "get_source", None)
    found: str | None = read(module) if read else None
    return found
