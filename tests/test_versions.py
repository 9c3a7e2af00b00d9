"""Which releases fit each other, and the warning about a transformers that the tests are not run on."""

import json
import platform
import re
import shutil
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import torch
import transformers
from packaging.requirements import Requirement

import vtokens
from tests.environments import ROOT, python
from vtokens.core import versions

from . import installed

ATTACH_TWICE = """
import vtokens
model, _ = vtokens.load("scenes-llava")
for _ in range(2):
    vtokens.attach(model, "uniform").detach()
"""


@pytest.mark.parametrize(
    ("torch", "torchvision", "fits"),
    [
        ("2.13.0+cpu", "0.28.0+cpu", True),
        ("2.13.0+cu130", "0.28.0+cu130", True),
        ("2.9.1", "0.24.1", True),
        ("2.13.0+cpu", "0.28.0+cu130", False),
        ("2.13.0+cpu", "0.27.0+cpu", False),
        ("2.13.0+cu128", "0.28.0+cu130", False),
        ("3.0.0", "0.28.0", False),
        ("", "0.15.0", False),
    ],
)
def test_which_torchvision_fits(torch, torchvision, fits):
    assert versions.torchvision_fits(torch, torchvision) is fits


@pytest.mark.parametrize(
    ("torch", "command"),
    [
        ("2.13.0+cpu", "pip install 'torchvision==0.28.*' --index-url https://download.pytorch.org/whl/cpu"),
        ("2.14.1+cu130", "pip install 'torchvision==0.29.*' --index-url https://download.pytorch.org/whl/cu130"),
        ("2.9.1", "pip install 'torchvision==0.24.*'"),
    ],
)
def test_how_it_is_installed(torch, command):
    assert versions.torchvision_command(torch) == command


def test_the_rule_is_that_of_torchvision_itself():
    """Where torchvision is installed, what it asks for is what the rule says."""
    asked = (
        [r for r in map(Requirement, metadata.requires("torchvision") or []) if r.name == "torch"]
        if (versions.installed("torchvision"))
        else [Requirement("torch==2.13.0")]
    )
    for one in asked:
        torch = next(iter(one.specifier)).version
        expected = versions.installed("torchvision") or "0.28.0"
        assert versions.torchvision_for(torch) == ".".join(expected.split(".")[:2])


def test_the_tested_range_is_the_one_that_may_be_installed():
    core = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    allowed = next(r.specifier for r in map(Requirement, core) if r.name == "transformers")
    (major, oldest), (_, newest) = versions.OLDEST, versions.NEWEST
    for number in range(oldest - 3, newest + 4):
        assert allowed.contains(f"{major}.{number}.0") == (not versions.untested(f"{major}.{number}.0"))


@pytest.mark.parametrize("version", ["5.16.1", "5.25.0", "5.25.0.dev0", "6.0.0", "4.57.6"])
def test_what_is_said_of_another_release(version):
    said = versions.untested(version)
    assert re.match(rf"transformers {re.escape(version)} .* 5\.19 to 5\.24: .*`vtokens doctor`.*pip install '", said)


def claiming(version: str, folder: Path) -> Path:
    """An overlay with the installed transformers, all of it by links, that calls itself by another release."""
    source = Path(transformers.__file__).parent
    (folder / "transformers").mkdir()
    for entry in source.iterdir():
        if entry.name != "__pycache__":
            (folder / "transformers" / entry.name).symlink_to(entry)
    start = folder / "transformers" / "__init__.py"
    start.unlink()
    text, times = re.subn(
        r'(?m)^__version__ = ".*"$', f'__version__ = "{version}"', (source / "__init__.py").read_text()
    )
    assert times == 1
    start.write_text(text)
    kept = next(source.parent.glob("transformers-*.dist-info"))
    shutil.copytree(kept, folder / f"transformers-{version}.dist-info")
    file = folder / f"transformers-{version}.dist-info" / "METADATA"
    file.write_text(re.sub(r"(?m)^Version: .*$", f"Version: {version}", file.read_text(), count=1))
    return folder


def test_the_one_that_the_tests_are_run_on_is_in_the_range():
    assert versions.untested(transformers.__version__) == ""


def test_a_newer_one_that_was_forced_warns_once_at_attach(tmp_path):
    done = python("-c", ATTACH_TWICE, over=[claiming("5.99.0", tmp_path)])
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("UserWarning: transformers 5.99.0 is not among the releases") == 1


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("cuda: Optional[str] = None\nhip: Optional[str] = None\n", "CPU"),
        ("cuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n", "CUDA 13.0"),
        ("cuda: Optional[str] = None\nhip: Optional[str] = '7.0.51831'\n", "ROCm 7.0.51831"),
        ("cuda = '12.8'\n", "CUDA 12.8"),
        ("", "CPU"),
    ],
)
def test_what_torch_was_built_for_is_read_and_not_imported(tmp_path, lines, told):
    """In the file that torch's own builds write."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "torch" / "version.py").write_text(f"__version__ = '2.99.1'\n{lines}")
    done = python("-m", "vtokens", "--version", "--json", over=[tmp_path])
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["torch"], found["accelerator"]) == ("2.99.1", told)
    assert found["vtokens"] == vtokens.__version__
    assert found["transformers"] == transformers.__version__


def test_what_it_runs_on_is_told_in_a_few_lines(tmp_path):
    """The releases of this process, and, where next to nothing is installed, that it is not."""
    done = python("-m", "vtokens", "--version")
    first, where, *rest = done.stdout.splitlines()
    assert first == f"vtokens {vtokens.__version__}"
    assert where == f"  Python {platform.python_version()} on {platform.platform()}"
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
    assert rest[:2] == [
        f"  torch {torch.__version__} (built for {built})",
        f"  transformers {transformers.__version__}",
    ]
    alone = installed.python(installed.linked(tmp_path / "packages", {"packaging"}), "-m", "vtokens", "--version")
    assert alone.stdout.splitlines()[2:] == [f"  {name} not installed" for name in ("torch", "transformers", "triton")]
