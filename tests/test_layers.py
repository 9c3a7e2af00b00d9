"""The house: packages import only what lies below them, and nothing loose stands beside them."""

import ast
import importlib
import re
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import vtokens
from vtokens.core.moved import MOVED

ROOT = Path(vtokens.__file__).parent
LAYERS = (
    "core",
    "video",
    "schemas",
    "kernels",
    "tables",
    "strategies",
    "adapters",
    "engine",
    "recipes",
    "scenes",
    "loading",
    "calibrate",
    "bench",
    "filter",
    "eval",
    "report",
    "doctor",
    "serve",
    "integrations",
    "cli",
)
"""Each may import those before it."""


def imported(path: Path) -> Iterator[str]:
    """The modules of ours that a file imports anywhere: inside functions and for type checkers too."""
    parents = path.relative_to(ROOT.parent).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            base = ".".join(parents[: len(parents) - node.level]) if node.level else ""
            module = ".".join(filter(None, (base, node.module or "")))
            names = [f"{module}.{alias.name}" for alias in node.names]
        yield from (name for name in names if name.startswith("vtokens."))


def named(path: Path) -> Iterator[str]:
    """The modules of ours that a file has `import_module` import by name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            texts = (part.value for part in node.args if isinstance(part, ast.Constant) and isinstance(part.value, str))
            yield from (text for text in texts if text.startswith("vtokens."))


def test_imports_between_packages_point_downwards() -> None:
    """A package that imports one above it is named with the file, whether lazily, for types alone or by its name."""
    upwards = []
    for path in sorted(ROOT.rglob("*.py")):
        inside = path.relative_to(ROOT).parts
        if len(inside) == 1:  # the package itself and its entry point, which are above everything
            continue
        for name in (*imported(path), *named(path)):
            other = name.split(".")[1]
            if other in LAYERS and LAYERS.index(other) > LAYERS.index(inside[0]):
                upwards.append(f"{'/'.join(inside)} imports {name}")
    assert upwards == []


FOLDERS = ("vtokens", "benchmarks", "tools", "tests")
"""What this tree is made of; each may import those before it."""


@pytest.mark.parametrize("folder", FOLDERS[:-1])
def test_folders_of_the_tree_import_none_that_is_above_them(folder: str) -> None:
    """The package knows no benchmark, and a benchmark no test, so that each runs where the others are not."""
    above, upwards = FOLDERS[FOLDERS.index(folder) + 1 :], []
    files = sorted((ROOT.parent / folder).rglob("*.py"))
    assert files
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            upwards += [f"{path} imports {name}" for name in names if name.split(".")[0] in above]
    assert upwards == []


def test_modules_import_each_other_in_no_circle() -> None:
    """Neither when they are loaded, nor lazily, nor for types: of two modules one can always be read first."""
    names = {".".join(path.relative_to(ROOT.parent).with_suffix("").parts): path for path in ROOT.rglob("*.py")}
    modules = {name.removesuffix(".__init__"): path for name, path in names.items()}
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        # "vtokens.a.b" is the module b, or the name b of the module a.
        found = {name if name in modules else name.rpartition(".")[0] for name in imported(path)}
        graph[module] = {name for name in found if name in modules and name != module}
    try:
        order = [*TopologicalSorter(graph).static_order()]
    except CycleError as error:
        raise AssertionError(f"modules import each other: {' -> '.join(error.args[1])}") from None
    assert len(order) == len(modules)


def test_every_package_has_a_layer_and_no_module_is_loose() -> None:
    """What is added to the package goes into a folder, and the folder into the list above."""
    found = {path.name for path in ROOT.iterdir() if path.name != "__pycache__"}
    assert found == {*LAYERS, "__init__.py", "__main__.py", "py.typed"}


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_modules_that_moved_are_found_under_their_old_names(old: str, new: str) -> None:
    """The old name is the same module, and says where it is now."""
    sys.modules.pop(f"vtokens.{old}", None)
    with pytest.warns(DeprecationWarning, match=rf"vtokens\.{old} is now vtokens\.{new}"):
        found = importlib.import_module(f"vtokens.{old}")
    assert found is importlib.import_module(f"vtokens.{new}")


PAGES = [page for page in sorted((ROOT.parent / "docs").glob("*.md")) if not page.stem.startswith("add-a-")]
"""Those that name no file for the reader to write."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z_]+/[a-z_/]+\.py)`", text))
    assert page.stem != "architecture" or len(named) > 30
    assert [name for name in sorted(named) if not ((ROOT / name).exists() or (ROOT.parent / name).exists())] == []
