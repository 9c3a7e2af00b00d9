"""The example plugin, really built and installed, is found by name and runs on a genuine model."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PLUGIN = ROOT / "examples" / "vtokens-example-plugin"


def installed(source: Path, folder: Path) -> Path:
    """`folder`, into which pip has installed the package in `source`, with its metadata, without any network."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    command += ["--no-deps", "--no-build-isolation", "--target", str(folder), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return installed(PLUGIN, tmp_path_factory.mktemp("site"))


def run(code: str, *paths: Path) -> Any:
    """The JSON that `code` prints in a fresh interpreter with `paths` to import from."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (*paths, ROOT))), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=PLUGIN.parent)
    assert done.returncode == 0, done.stderr
    assert "could not be loaded" not in done.stderr
    return json.loads(done.stdout)


def test_it_is_a_real_installation(target: Path) -> None:
    """Code, metadata and the entry point are where an installer puts them, and the source tree stays clean."""
    assert (target / "vtokens_center.py").read_text() == (PLUGIN / "vtokens_center.py").read_text()
    (points,) = target.glob("vtokens_example_plugin-*.dist-info/entry_points.txt")
    assert points.read_text().split() == ["[vtokens.strategies]", "center", "=", "vtokens_center"]
    assert {path.name for path in PLUGIN.iterdir()} <= {"README.md", "pyproject.toml", "vtokens_center.py"}


def test_it_is_listed_where_it_is_installed_and_only_there(target: Path) -> None:
    """`vtokens.strategies` lists it beside the built-in ones; without the folder the name is unknown."""
    code = """
        import json, vtokens
        print(json.dumps([vtokens.strategies("center*"), "fastv" in vtokens.strategies()]))
    """
    assert run(code, target) == [["center"], True]
    assert run(code) == [[], True]


def test_it_describes_itself(target: Path) -> None:
    """Fields, default and stage come from the class."""
    code = """
        import json, vtokens
        card = vtokens.describe("center")
        print(json.dumps([card.summary, card.stages, card.fields]))
    """
    summary, stages, fields = run(code, target)
    assert summary == "Keeps the tokens nearest the centre of each view of a picture."
    assert stages == ["prompt"]
    assert set(fields) == {"keep", "positions", "budget", "of"}
    assert fields["keep"][1] == 0.25


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("llava", [5, 6, 9, 10]),  # the middle of 4 x 4
        ("llava_next", [46, 47, 55, 56]),  # that of the 8 x 8 canvas is nearer than the thumbnail's: 16 + 9 y + x
        ("qwen2_vl", [5, 6, 9, 10]),
    ],
)
def test_it_prunes_a_model(target: Path, family: str, expected: list[int]) -> None:
    """By name, composed with a built-in strategy, on a tiny genuine model: the four tokens in the middle stay."""
    code = f"""
        import json, torch, vtokens
        from tests.families import build, image, inputs
        torch.set_num_threads(1)
        model, processor = build({family!r})
        batch = inputs(processor, ["Is there a cat?"], [[image(112, 112, seed=0)]])
        with torch.no_grad(), vtokens.attach(model, "center(keep=4)+fastv(keep=2, layer=3)") as handle:
            model.generate(**batch, max_new_tokens=2, do_sample=False)
            part = handle.report().samples[0].pictures[0]
            print(json.dumps([handle.strategy, part.kept[0].tolist(), [len(kept) for kept in part.kept]]))
    """
    strategy, kept, sizes = run(code, target)
    assert strategy == "center(keep=4)+fastv(keep=2, layer=3)"
    assert kept == expected
    assert sizes == [4, 4, 4, 2]
