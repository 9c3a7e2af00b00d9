"""What was documented before the package got its folders and its small bases still works, with at most a warning.

`DOCUMENTED` and tests/older are frozen: what README.md, docs and examples named at d123198.
"""

from __future__ import annotations

import ast
import importlib
import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.test_plugin_example import PLUGIN, installed
from vtokens.core.moved import MOVED, RENAMED, Member
from vtokens.engine.report import Report
from vtokens.strategies.older import REPLACED
from vtokens.strategies.views.heads import Heads
from vtokens.strategies.views.logits import Logits

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "migrating.md"
OLD = ROOT / "tests" / "older" / "vtokens_center.py"

DOCUMENTED = (
    "from vtokens import HallucinationFilter, Risk, attach, attachment, describe, load, save_pretrained, strategies",
    "from vtokens import kernels",
    "from vtokens import scenes",
    "from vtokens.adapters.base import Adapter, register_adapter",
    "from vtokens.budget import Keep",
    "from vtokens.costs import BUDGET",
    "from vtokens.eval import VTokens",
    "from vtokens.eval import sweep",
    "from vtokens.eval.tasks import build",
    "from vtokens.filter import calibrate_policy",
    "from vtokens.filter import labels",
    "from vtokens.kernels import Tiles, attention_colmean, attention_colsum, bipartite_merge, block_sparse_attention, "
    "gathered_attention, grouped_attention",
    "from vtokens.picture import Picture",
    "from vtokens.strategies import Facts, Strategy, register",
    "from vtokens.strategies import Selection, Strategy, Visuals, register",
    "from vtokens.strategies.heads import Heads, Rows, Span",
    "from vtokens.strategies.logits import Logits, NoPicture, Pixels, Prompt, Same, Tokens",
    "from vtokens.strategies.patches import Patches",
    "from vtokens.strategies.signals import Attention, Saliency, Signal",
)


def run(code: str, *paths: Path, options: tuple[str, ...] = ()) -> Any:
    """The JSON that `code` prints in a fresh interpreter, with `paths` to import from."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (*paths, ROOT))), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, *options, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "could not be loaded" not in done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def imports() -> dict[str, list[Any]]:
    """Each documented line: the categories of the warnings it gives in one interpreter after the others."""
    code = f"""
        import json, warnings
        found = {{}}
        for line in {DOCUMENTED!r}:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                exec(line, {{}})
            found[line] = [[w.category.__name__, str(w.message)] for w in caught if "vtokens" in str(w.message)]
        print(json.dumps(found))
    """
    return run(code)


@pytest.mark.parametrize("line", DOCUMENTED)
def test_every_documented_name_imports(line: str, imports: dict[str, list[Any]]) -> None:
    """With a DeprecationWarning that says where the module is now, if it moved, and silently if not."""
    node = ast.parse(line).body[0]
    assert isinstance(node, ast.ImportFrom)
    modules = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    moved = [name for name in (str(module).removeprefix("vtokens.") for module in modules) if name in MOVED]
    assert [category for category, _ in imports[line]] == ["DeprecationWarning"] * len(moved)
    for old, (_, told) in zip(moved, imports[line], strict=True):
        assert told.startswith(f"vtokens.{old} is now vtokens.{MOVED[old]};")


@pytest.mark.parametrize(
    ("module", "old", "new"), [(module, old, new) for module, names in RENAMED.items() for old, new in names.items()]
)
def test_classes_are_found_under_their_old_names(module: str, old: str, new: str) -> None:
    """The old name is the same class, and the warning names the new one at the line that asked."""
    found = importlib.import_module(f"vtokens.{module}")
    with pytest.warns(DeprecationWarning, match=rf"vtokens\.{module}\.{old} is now vtokens\.{module}\.{new};") as told:
        cls = getattr(found, old)
    assert cls is getattr(found, new)
    assert [warning.filename for warning in told] == [__file__]
    with pytest.raises(AttributeError, match=f"no attribute '{old}s'"):
        getattr(found, f"{old}s")


def members() -> list[tuple[type, str, str]]:
    """Class, old name and new name of each renamed member."""
    classes = (Heads, Logits, Report)
    found = [(cls, part) for cls in classes for base in cls.__mro__ for part in vars(base).values()]
    return [(cls, part.old, part.new) for cls, part in found if isinstance(part, Member)]


@pytest.mark.parametrize(("cls", "old", "new"), members())
def test_members_are_found_under_their_old_names(cls: type, old: str, new: str) -> None:
    """The old name gives what the new one does, and the warning names the new one at the line that asked."""
    one = object.__new__(cls)
    if not hasattr(cls, new):
        vars(one)[new] = 3
    with pytest.warns(DeprecationWarning, match=rf"{cls.__name__}\.{old} is now {cls.__name__}\.{new};") as warned:
        value = getattr(one, old)
    assert value == getattr(one, new)
    assert [warning.filename for warning in warned] == [__file__]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the example plugin as it was: that file, announced as today."""
    source = tmp_path_factory.mktemp("older")
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(PLUGIN / name, source)
    shutil.copy(OLD, source)
    folder = installed(source, tmp_path_factory.mktemp("site"))
    assert (folder / "vtokens_center.py").read_bytes() == OLD.read_bytes()
    return folder


def test_the_example_plugin_of_before_runs_unchanged(target: Path) -> None:
    """It warns of the module that moved and keeps the four tokens in the middle, alone and before `fastv`."""
    code = """
        import json, torch, warnings
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            import vtokens
            names = vtokens.strategies("center*")
        told = [[w.category.__name__, str(w.message)] for w in caught if "vtokens" in str(w.message)]
        from tests.families import build, image, inputs
        torch.set_num_threads(1)
        model, processor = build("llava")
        batch = inputs(processor, ["Is there a cat?"], [[image(112, 112, seed=0)]])
        kept = []
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for spec in ("center(keep=4)", "center(keep=4)+fastv(keep=2, layer=3)"):
                with torch.no_grad(), vtokens.attach(model, spec) as handle:
                    model.generate(**batch, max_new_tokens=2, do_sample=False)
                    part = handle.report().samples[0].pictures[0]
                    kept.append([part.kept[0].tolist(), [len(kept) for kept in part.kept]])
        print(json.dumps([names, told, kept]))
    """
    names, told, kept = run(code, target)
    assert names == ["center"]
    where = "vtokens.budget is now vtokens.core.budget; the old name goes away in 0.3"
    assert told == [["DeprecationWarning", where]]
    assert kept == [[[5, 6, 9, 10], [4, 4, 4, 4]], [[5, 6, 9, 10], [4, 4, 4, 2]]]


def test_the_page_says_what_replaced_what() -> None:
    """Every module that moved and every member that was replaced stands there, beside what to write now."""
    text = PAGE.read_text(encoding="utf-8")
    rows = dict(row.strip("| ").split(" | ")[:2] for row in text.splitlines() if row.startswith("| `"))
    for old, new in MOVED.items():
        assert rows[f"`vtokens.{old}`"] == f"`vtokens.{new}`"
    for module, names in RENAMED.items():
        for old, new in names.items():
            assert rows[f"`vtokens.{module}.{old}`"] == f"`vtokens.{module}.{new}`"
    for cls, old, new in members():
        assert rows[f"`{cls.__name__}.{old}`"] == f"`{cls.__name__}.{new}`"
    for old, field in REPLACED.items():
        (now,) = [rows[row] for row in rows if row.startswith((f"`{old} ", f"`def {old}("))]
        assert now.startswith(f"`Needs({field}=")
