"""A torchvision built for CUDA beside a torch for CPUs: it is installed, and fails to import."""

import sys

import pytest
import torch

from tests.environments import overlay, python
from tests.test_processors import saved

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or torch.version.cuda is not None, reason="only here is the index's torchvision a misfit"
)

USE = """
import sys
import vtokens
from tests.families import image, inputs
model, processor = vtokens.load(sys.argv[1], strategy="uniform", keep=0.5)
model.generate(**inputs(processor, ["what is <image> this?"], [[image(100, 60, seed=3)]]), max_new_tokens=2)
print(vtokens.attachment(model).report().samples[0].visual_tokens[0])
"""
LATE = "import transformers; transformers.utils.is_torchvision_available()" + USE


@pytest.fixture(scope="module")
def misfit():
    """The overlay with that torchvision."""
    return [overlay("torchvision==0.28.0")]


def test_it_fails_by_itself_and_takes_transformers_along(misfit):
    """Should this fail one day, there is nothing left to work around."""
    assert "torchvision::nms does not exist" in python("-c", "import torchvision", over=misfit).stderr
    assert python("-c", "from transformers import AutoProcessor", over=misfit).returncode == 1


@pytest.mark.parametrize("program", [USE, LATE], ids=["at once", "transformers has looked already"])
def test_models_are_loaded_and_run_on_pictures(program, misfit, tmp_path):
    saved("qwen2_5_vl", tmp_path)
    done = python("-c", program, str(tmp_path), over=misfit)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0
    fault = "torchvision 0.28.0+cu130 does not import beside torch"
    assert done.stderr.count(fault) == 1
    assert done.stderr.count("pictures only: Qwen2_5_VLProcessor") == 1
    assert "pip install 'torchvision==0." in done.stderr


def test_the_command_line_runs(misfit):
    done = python("-m", "vtokens", "models", over=misfit)
    assert done.returncode == 0, done.stderr
    assert "scenes-llava" in done.stdout


def test_nothing_heavy_is_imported_where_there_is_no_doubt():
    done = python("-c", "import vtokens, sys; print(*sys.modules)")
    assert not {"torch", "torchvision", "transformers", "numpy"} & set(done.stdout.split())
