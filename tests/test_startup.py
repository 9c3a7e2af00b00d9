"""What is listed is read from the source, and says what the classes say; torch is imported by what computes with it."""

from __future__ import annotations

import compileall
import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = (
    "PIL", "accelerate", "huggingface_hub", "jinja2", "matplotlib", "numpy", "pydantic", "rich", "safetensors", "scipy",
    "sklearn", "tokenizers", "torch", "torchvision", "transformers", "triton",
)  # fmt: skip
"""What commands that compute nothing do without."""
FOLDERS = ("attend", "contrast", "merge", "prune")
"""Of `vtokens.strategies`."""
UNUSED = ("bench", "calibrate", "cli", "doctor", "eval", "filter", "report", "scenes")
"""Packages that listing from Python does without."""


def run(code: str, *arguments: str, path: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter that finds vtokens in `path`."""
    env = os.environ | {"PYTHONPATH": str(path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", textwrap.dedent(code), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=path if path.is_dir() else path.parent)


COMMAND = f"""
    import sys
    from vtokens.cli import main
    try:
        main(sys.argv[1:])
    finally:
        print("imported:", *sorted(set(sys.modules) & set({HEAVY!r})))
"""


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("--help", "vtokens strategies"),
        ("--version", "  torch "),
        ("--version --json", '"accelerator": '),
        ("strategies", "mminference"),
        ("strategies fast*", "fastvid"),
        ("strategies fastv", "query_scope"),
        ("strategies permuted_prefill", "mminference: "),
        ("strategies --stage prompt --needs cls", "todre"),
        ("strategies fastw", "Did you mean 'fastv'?"),
        ("models", "Qwen/Qwen2.5-VL-7B-Instruct"),
        ("cite visionzip+census crop", "@inproceedings{visionzip,"),
        ("model", "Did you mean 'models'?"),
        ("strategies --help", "examples:"),
        ("run --help", "--overlay"),
        ("strategies a b", "unrecognized arguments: b"),
    ],
)
def test_a_command_that_only_tells_imports_nothing_heavy(command: str, says: str) -> None:
    """Listings, cards, helps and errors, each in a process of its own."""
    done = run(COMMAND, *command.split())
    assert says in done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "imported:"


def test_the_library_lists_and_describes_without_torch() -> None:
    """Names, cards, families and the errors of unknown names, from Python as from the command line."""
    code = f"""
        import sys, vtokens, vtokens.scenes
        assert vtokens.strategies("fast*") == ["fastv", "fastvid"]
        assert "dymu" in vtokens.strategies(stage="encode")
        assert vtokens.describe("permuted_prefill").name == "mminference"
        assert "llava" in vtokens.models()
        for name in ("fastw", "fastv2"):
            try:
                vtokens.describe(name)
            except ValueError as error:
                assert "Did you mean 'fastv'?" in str(error), error
        print("imported:", *sorted(set(sys.modules) & set({HEAVY!r})))
    """
    done = run(code)
    assert done.stdout.strip() == "imported:", done.stderr


def test_attaching_by_name_imports_what_it_needs() -> None:
    """On a tiny genuine model: the strategies that are named, the model's family, and nothing that neither needs.

    A name that nobody has imported yet is taken all the same, an alias is found, and all names are compared with a
    wrong one.
    """
    code = f"""
        import sys
        from tests.families import build
        model, _ = build("qwen2_vl")
        before = set(sys.modules)
        import vtokens
        vtokens.attach(model, "fastv(keep=0.5)+uniform").detach()
        new = set(sys.modules) - before
        print(*sorted(new & set({HEAVY!r})))
        folders = ("adapters.llava", "adapters.q", *(f"strategies.{{one}}." for one in {FOLDERS!r}))
        print(*sorted(name for name in new if name.startswith(tuple(f"vtokens.{{one}}" for one in folders))))
        try:
            vtokens.register("todre")(type("Mine", (vtokens.Strategy,), {{}}))
        except ValueError as error:
            print(error)
        try:
            vtokens.attach(model, "todree")
        except ValueError as error:
            print(str(error).partition("Allowed")[0])
        print("vtokens.strategies.prune.todre" in sys.modules)
        print([type(one).__module__ for one in vtokens.strategies.parse("permuted_prefill")])
    """
    done = run(code)
    assert done.stdout.splitlines() == [
        "",
        "vtokens.adapters.qwen2_vl vtokens.strategies.prune.fastv vtokens.strategies.prune.uniform",
        "strategy 'todre' is already registered by vtokens.strategies.prune.todre.Todre",
        "unknown strategy 'todree'. Did you mean 'todre'? ",
        "False",
        "['vtokens.strategies.attend.mminference']",
    ], done.stderr


LIST = """
    import json, sys, vtokens
    cards = [str(vtokens.describe(name)) for name in vtokens.strategies()]
    print(json.dumps([cards, "torch" in sys.modules, vtokens.__file__]))
"""


def copied(folder: Path) -> Path:
    """The package's modules in another folder, without what else travels with them."""
    ignored = shutil.ignore_patterns("__pycache__", *UNUSED)
    return Path(shutil.copytree(ROOT / "vtokens", folder / "vtokens", ignore=ignored))


def test_a_package_in_a_zip_file_is_read_as_one_in_a_folder(tmp_path: Path) -> None:
    """Sources come from the loader that imports them."""
    file = shutil.make_archive(str(tmp_path / "all"), "zip", copied(tmp_path / "copy").parent)
    expected, found = (json.loads(run(LIST, path=path).stdout) for path in (ROOT, Path(file)))
    assert found[:2] == expected[:2]
    assert found[1] is False
    assert found[2].startswith(file)


def test_a_package_of_bytecode_alone_is_imported_to_be_listed(tmp_path: Path) -> None:
    """Where no source is installed there is nothing to read: the same is listed, and torch is paid for."""
    package = copied(tmp_path)
    compileall.compile_dir(package, legacy=True, quiet=2)
    for file in package.rglob("*.py"):
        file.unlink()
    expected, found = (json.loads(run(LIST, path=path).stdout) for path in (ROOT, tmp_path))
    assert found[:2] == [expected[0], True]
    assert found[2].endswith(".pyc")
