"""The pages of the API: one for each package that says what it exports (`__all__`), with every name of it."""

from __future__ import annotations

import ast
import importlib
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GUIDES = {
    "vtokens": "../index.md",
    "vtokens.adapters": "../add-a-model.md",
    "vtokens.doctor": "../install.md",
    "vtokens.engine": "../architecture.md",
    "vtokens.eval": "../evaluation.md",
    "vtokens.filter": "../filter.md",
    "vtokens.kernels": "../kernels.md",
    "vtokens.recipes": "../recipes.md",
    "vtokens.report": "../report.md",
    "vtokens.scenes": "../scenes.md",
    "vtokens.strategies": "../add-a-strategy.md",
    "vtokens.video": "../video.md",
}
"""The page that tells how a package is used; it is also that of packages inside."""
INDEX = """# Reference

The [command line](cli.md), and the Python packages that say what they export. What is not listed here is no
public name: it may change in any release.

| package | what it is |
|---|---|
"""


def page(package: str) -> str:
    """Where the page of a package lies in the site's sources."""
    return f"reference/{package}.md"


@cache
def packages() -> tuple[str, ...]:
    """Every package under vtokens with an `__all__`, the shortest name first."""
    found = (".".join(file.parent.relative_to(ROOT).parts) for file in (ROOT / "vtokens").rglob("__init__.py"))
    return tuple(sorted(name for name in found if exported(name)))


@cache
def exported(package: str) -> tuple[str, ...]:
    """What a package exports: read from its source, or, where that computes it, from the package itself."""
    for statement in _tree(package).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__":
            try:
                return tuple(ast.literal_eval(statement.value))
            except ValueError:
                return tuple(importlib.import_module(package).__all__)
    return ()


@cache
def places() -> dict[str, str]:
    """Where on the site each public name is told, packages among them."""
    names = {f"{one}.{name}": f"reference/{one}/#{one}.{name}" for one in packages() for name in exported(one)}
    return names | {one: f"reference/{one}/" for one in packages()}


def pages() -> dict[str, str]:
    """The text of each page, by where it lies."""
    index = INDEX + "".join(f"| [`{one}`]({one}.md) | {_first(one)} |\n" for one in packages())
    return {"reference/README.md": index} | {page(one): _text(one) for one in packages()}


def _text(package: str) -> str:
    about = ast.get_docstring(_tree(package)) or ""
    guide = next(page for name, page in reversed(GUIDES.items()) if f"{package}.".startswith(f"{name}."))
    parts = [f"# {package}", about, f"How it is used: [the guide]({guide})."]
    for name in sorted(exported(package), key=lambda one: (one.startswith("__"), one.lower())):
        parts.append(_entry(package, name))
    return "\n\n".join(parts) + "\n"


def _entry(package: str, name: str) -> str:
    public, home = f"{package}.{name}", _home(package, name)
    if home in packages():
        return f"## {name} {{ #{public} }}\n\nThe package [`{home}`]({home}.md): {_first(home)}"
    for other in packages():  # told once, where the name is shortest
        if other == package:
            break
        if any(_home(other, one) == home for one in exported(other)):
            return f"## {name} {{ #{public} }}\n\nThe same as [`{other}.{name}`]({other}.md#{other}.{name})."
    options = f"    options:\n      heading: {name}\n      toc_label: {name}"
    return f'<div id="{public}"></div>\n\n::: {_told_by(home)}\n{options}'


def _told_by(home: str) -> str:
    """What documents a name: itself, or the class of `name = function(Class)`."""
    module, _, name = home.rpartition(".")
    for statement in _tree(module).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == name:
            value = statement.value
            if isinstance(value, ast.Call) and ast.unparse(value.func) == "function":
                return f"{module}.{ast.unparse(value.args[0])}"
    return home


@cache
def _home(package: str, name: str) -> str:
    """Where a name is defined, followed through the packages that hand it on."""
    module, inner = _imports(package).get(name, (package, name))
    return f"{package}.{name}" if module == package else _home(module, inner)


@cache
def _imports(module: str) -> dict[str, tuple[str, str]]:
    """What a module imports from others: its name here, the other module, and its name there."""
    nodes = [node for node in ast.walk(_tree(module)) if isinstance(node, ast.ImportFrom)]
    return {one.asname or one.name: (_imported(module, node), one.name) for node in nodes for one in node.names}


def _imported(module: str, node: ast.ImportFrom) -> str:
    """The module that a `from ... import` names."""
    parts = module.split(".") if _is_package(module) else module.split(".")[:-1]
    above = parts[: len(parts) - node.level + 1] if node.level else []
    return ".".join([*above, *filter(None, [node.module])])


def _first(package: str) -> str:
    return (ast.get_docstring(_tree(package)) or "").partition("\n\n")[0].replace("\n", " ")


def _is_package(module: str) -> bool:
    return (ROOT / module.replace(".", "/") / "__init__.py").exists()


@cache
def _tree(module: str) -> ast.Module:
    place = ROOT / module.replace(".", "/")
    return ast.parse(
        (place / "__init__.py" if _is_package(module) else place.with_suffix(".py")).read_text(encoding="utf-8")
    )
