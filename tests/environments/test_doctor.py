"""`vtokens doctor` in environments where something does not fit, and the self-check on models that are wrong."""

import json
import sys

import pytest
import torch

import vtokens
from tests.environments import ROOT, overlay, python
from tests.test_versions import claiming
from vtokens.doctor import selfcheck
from vtokens.doctor.extras import EXTRAS

DOCTOR = ("-m", "vtokens", "doctor")
FEW = """
import runpy, sys
from vtokens.doctor import extras
extras.EXTRAS = [one for one in extras.EXTRAS if one.name in ("cli", "smol")]
sys.argv = ["vtokens", "doctor"]
runpy.run_module("vtokens", run_name="__main__")
"""
RELEASES = "from vtokens.doctor.releases import examine\nfor one in examine(): print(one.name, one.state, one.remedy)"
LINUX_CPU = pytest.mark.skipif(
    sys.platform != "linux" or torch.version.cuda is not None, reason="only here is the index's torchvision a misfit"
)


def test_all_is_well():
    done = python(*DOCTOR, "--json", over=[overlay("filelock<4.3")])
    told = json.loads(done.stdout)
    assert done.returncode == 0, [one for one in told["found"] if one["state"] == "wrong"]
    assert told["ok"]
    found = {(one["section"], one["name"]): one for one in told["found"]}
    shown = {"Python", "torch", "torchvision", "transformers", "numpy", "triton", "lmms-eval", "av", "decord"}
    shown |= {"filelock"}
    assert shown <= {name for section, name in found if section == "versions"}
    for guarantee in ("keep=1.0 changes no bit", "pruned equals masked", "batch equals single"):
        assert found["self-check", guarantee]["state"] == "ok"
    assert {name for section, name in found if section == "extras"} == {e.name for e in EXTRAS}
    assert [section for section, _ in found if section == "device"]


@LINUX_CPU
def test_each_fault_and_each_remedy_is_named():
    done = python(*DOCTOR, over=[overlay("filelock==4.3.1"), overlay("torchvision==0.28.0")])
    assert done.returncode == 1, done.stdout
    lines = done.stdout.splitlines()
    wrong = [line.split()[1] for line in lines if line.startswith("  WRONG")]
    assert wrong == ["torchvision:", "filelock:", "eval:"]
    closing = lines[next(number for number, line in enumerate(lines) if line.startswith("3 wrong")) :]
    assert any("pip install 'filelock<4.3" in line for line in closing)
    fits = vtokens.core.versions.torchvision_for(torch.__version__)
    assert any(f"pip install 'torchvision=={fits}.*'" in line for line in closing)
    assert "operator torchvision::nms does not exist" in done.stdout
    assert "pruned equals masked" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr


def test_it_begins_where_transformers_cannot_be_imported():
    """This release of the hub's client is older than transformers wants, and says so at every import.

    Only a few extras are tried, as each takes seconds to import; the test above tries all.
    """
    done = python("-c", FEW, over=[overlay("huggingface_hub==1.5.0"), overlay("filelock<4.3")])
    assert done.returncode == 1, done.stdout
    assert "WRONG   huggingface-hub: 1.5.0: transformers" in done.stdout
    assert "\n  pip install 'huggingface-hub<" in done.stdout
    assert "WRONG   the embedded model: ImportError: " in done.stdout
    assert "works (commands and plots)" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_nothing_that_may_be_broken_is_imported_by_the_program_itself():
    code = "import sys\nimport vtokens.cli, vtokens.doctor\nprint(*{name.partition('.')[0] for name in sys.modules})"
    imported = set(python("-c", code).stdout.split())
    assert "vtokens" in imported
    assert not {"torch", "torchvision", "transformers", "numpy", "rich", "lmms_eval", "matplotlib"} & imported


def test_a_transformers_that_was_not_tested(tmp_path):
    done = python("-c", RELEASES, over=[claiming("5.99.0", tmp_path), overlay("filelock<4.3")])
    assert "transformers wrong pip install 'transformers>=5.19,<5.25'" in done.stdout


@pytest.mark.slow
def test_the_newest_release_that_was_tested():
    newest = ".".join(map(str, vtokens.core.versions.NEWEST))
    done = python(*DOCTOR, over=[overlay(f"transformers=={newest}.*"), overlay("filelock<4.3")])
    assert done.returncode == 0, done.stdout
    assert f"transformers: {newest}." in done.stdout


def test_extras_are_those_of_the_project():
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {e.name for e in EXTRAS} == set(extras) - {"dev", "eval-light"}


def attached(model, hidden):
    """Where a strategy is attached."""
    return vtokens.attachment(model) is not None


def shortened(model, hidden):
    """Where tokens were dropped."""
    return 1 < hidden.shape[1] < 130


def together(model, hidden):
    """In a batch."""
    return len(hidden) > 1


@pytest.mark.parametrize(
    ("check", "where"),
    [(selfcheck.identical, attached), (selfcheck.masked, shortened), (selfcheck.batched, together)],
)
def test_the_self_check_sees_what_is_wrong(check, where):
    model, processor = vtokens.load("scenes-llava", strategy="none")
    model.eval()
    with torch.no_grad():
        assert check(model, processor) == ""
        off = model.model.language_model.layers[5].register_forward_hook(
            lambda layer, args, out: out * 1.001 if where(model, args[0]) else None
        )
        assert check(model, processor)
        off.remove()
        assert check(model, processor) == ""
