"""What type checkers know of the package: names that are not there and options that nothing takes are seen by them."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from transformers import GenerationConfig, PreTrainedModel

from vtokens.core.generate_options import GenerateOptions
from vtokens.loading.options import LoadOptions, TransformersOptions
from vtokens.strategies import get, list_strategies
from vtokens.strategies.spec import field_names

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "tests" / "typed"


@pytest.fixture(scope="module")
def options() -> ModuleType:
    """tools/options.py."""
    spec = importlib.util.spec_from_file_location("options", ROOT / "tools" / "options.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_options_that_checkers_know_are_those_of_the_classes(options: ModuleType) -> None:
    """The modules are what the tool writes, in the releases that are locked."""
    for path, text in options.MODULES.items():
        assert path.read_text(encoding="utf-8") == options.formatted(text()), "run: python tools/options.py"


def test_each_field_of_each_strategy_is_an_option() -> None:
    ours = [name for name in list_strategies() if get(name).__module__.startswith("vtokens.")]
    assert len(ours) > 50
    assert set().union(*map(field_names, ours)) - {"keep"} <= set(LoadOptions.__annotations__)


def test_each_argument_of_transformers_is_an_option() -> None:
    """Of `from_pretrained` those in its signature, of `generate` those that its configuration has."""
    parameters = inspect.signature(PreTrainedModel.from_pretrained).parameters.values()
    assert {one.name for one in parameters if one.kind is one.KEYWORD_ONLY} <= set(TransformersOptions.__annotations__)
    known = {name for name in vars(GenerationConfig()) if not name.startswith("_")} - {"transformers_version"}
    assert known <= set(GenerateOptions.__annotations__)


def shown(tree: ast.Module) -> Iterator[int]:
    """Lines of a module where a checker sees a `__getattr__`, and believes that any name is there."""
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        names = [target.id for target in targets if isinstance(target, ast.Name)]
        if "__getattr__" in [*names, getattr(node, "name", "")]:
            yield node.lineno


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("def __getattr__(name): ...", [1]),
        ("__getattr__ = importer()", [1]),
        ("if not TYPE_CHECKING:\n    __getattr__ = importer()", []),
        ("class A:\n    def __getattr__(self, name): ...", []),
    ],
)
def test_where_a_checker_sees_one(source: str, lines: list[int]) -> None:
    assert list(shown(ast.parse(source))) == lines


def test_no_module_tells_checkers_that_it_has_every_name() -> None:
    found = {
        f"{path.relative_to(ROOT)}:{line}"
        for path in (ROOT / "vtokens").rglob("*.py")
        for line in shown(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert not found


def refused_by_mypy() -> set[tuple[str, int]]:
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--output", "json", str(SAMPLES / "good.py"), str(SAMPLES / "bad.py")],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {(Path(one["file"]).name, one["line"]) for one in found if one["severity"] == "error"}


def refused_by_pyright() -> set[tuple[str, int]]:
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson", str(SAMPLES)],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)["generalDiagnostics"]
    errors = (one for one in found if one["severity"] == "error")
    return {(Path(one["file"]).name, one["range"]["start"]["line"] + 1) for one in errors}


@pytest.mark.slow
@pytest.mark.typed
@pytest.mark.parametrize("refused", [refused_by_mypy, refused_by_pyright])
def test_a_checker_refuses_what_is_not_there_and_nothing_else(refused: Any) -> None:
    """Each line of the bad sample that says so, and none of the good one. Both are read, not run."""
    lines = (SAMPLES / "bad.py").read_text(encoding="utf-8").splitlines()
    bad = {("bad.py", number) for number, line in enumerate(lines, 1) if line.endswith("# bad")}
    assert len(bad) > 30
    assert refused() == bad
