"""A registered class as its source has it: summary, fields and attributes, read with `ast` and never run."""

from __future__ import annotations

import ast
import copy
from dataclasses import dataclass
from typing import Any


class Unread(Exception):
    """A source that says something only its import can tell."""


@dataclass(frozen=True)
class RegisteredClass:
    """A class that its module registers by a decorator.

    Attributes:
        module: where it stands.
        arguments, keywords: what the decorator was given.
        lineage: the class, its base, and so on, up to the root of the registry, which is left out.
    """

    module: str
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    lineage: tuple[ast.ClassDef, ...]

    def summary(self) -> str:
        """The first line of the docstring."""
        text = ast.get_docstring(self.lineage[0], clean=False)
        if text is None:  # a dataclass makes one up
            raise Unread
        return text.strip().split("\n", 1)[0]

    def names(self) -> set[str]:
        """The names of the methods and attributes that the lineage defines."""
        parts = [part for node in self.lineage for part in node.body]
        methods = {part.name for part in parts if isinstance(part, ast.FunctionDef)}
        return methods | {name for part in parts for name in _assigned(part)}

    def constant(self, name: str) -> Any:
        """The value of a class attribute; `Unread` if no class of the lineage has it."""
        for node in self.lineage:
            for part in node.body:
                if name in _assigned(part):
                    return value_of(getattr(part, "value", None))
        raise Unread

    def returned(self, method: str) -> Any:
        """What a class method returns, where it is one expression of constants and of the class's attributes."""
        parts = [part for node in self.lineage for part in node.body]
        first = next((part for part in parts if isinstance(part, ast.FunctionDef) and part.name == method), None)
        *above, last = first.body if first else [None]
        if not all(isinstance(part, ast.Expr) for part in above) or not isinstance(last, ast.Return) or not last.value:
            raise Unread
        return value_of(_Filled(self).visit(copy.deepcopy(last.value)))  # other classes have the method too

    def fields(self) -> dict[str, tuple[str, Any]]:
        """The fields of the dataclass that its `__init__` takes, in order: (annotation, default)."""
        found: dict[str, tuple[str, Any]] = {}
        for node in reversed(self.lineage):
            if not any(name_of(getattr(one, "func", one)) == "dataclass" for one in node.decorator_list):
                raise Unread
            for part in node.body:
                if not isinstance(part, ast.AnnAssign) or not isinstance(part.target, ast.Name):
                    continue
                annotation = ast.unparse(part.annotation)
                if "InitVar" in annotation:
                    raise Unread
                if "ClassVar" not in annotation:
                    given, default = _default(part.value)
                    found[part.target.id] = (annotation, default)
                    if not given:
                        del found[part.target.id]
        return found


class _Filled(ast.NodeTransformer):
    """Puts the values of class attributes in the place of `cls.name`."""

    def __init__(self, written: RegisteredClass) -> None:
        self.written = written

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        if not isinstance(node.value, ast.Name) or node.value.id != "cls":
            raise Unread
        return ast.Constant(self.written.constant(node.attr))


def name_of(node: Any) -> str:
    """The name of a variable or an attribute, "" for another expression."""
    return getattr(node, "id", "") if isinstance(node, ast.Name) else getattr(node, "attr", "")


def _assigned(part: ast.stmt) -> list[str]:
    """The names that a statement assigns to, if it is an assignment."""
    targets = part.targets if isinstance(part, ast.Assign) else [getattr(part, "target", None)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _default(value: ast.expr | None) -> tuple[bool, Any]:
    """Whether `__init__` takes a field, and its default."""
    if isinstance(value, ast.Call) and name_of(value.func) == "field":
        words = {word.arg: word.value for word in value.keywords}
        given = value_of(words["init"]) if "init" in words else True
        return given, value_of(words.get("default")) if given else None
    return True, value_of(value)


def value_of(node: Any) -> Any:
    """The value of a literal, or of one number over another, as 1 / 3; `Unread` for any other expression."""
    try:
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            return value_of(node.left) / value_of(node.right)
        return ast.literal_eval(node)
    except (ZeroDivisionError, ValueError, TypeError, AttributeError):
        raise Unread from None
