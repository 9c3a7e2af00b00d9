"""Families whose towers timm brings, in an environment that has it: their share of the drawn tests, and their own."""

from __future__ import annotations

import sys

import pytest
import torch

from tests.environments import ROOT, overlay, python

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or torch.version.cuda is not None, reason="other builds of torchvision fit elsewhere"
)
MODULES = (
    "test_families", "test_costs", "engine/test_blind_towers", "engine/test_pruned_equals_masked",
    "engine/test_multiturn", "engine/test_combinations",
)  # fmt: skip
FAMILIES = "perception_lm or fast_vlm or test_blind_towers"
PLUGIN = "tests.environments.declared_operators"


def test_they_pass_what_all_families_pass() -> None:
    over = [overlay("timm==1.0.31"), overlay("torchvision==0.28.0")]
    paths = [str(ROOT / "tests" / f"{module}.py") for module in MODULES]
    done = python("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", PLUGIN, "-k", FAMILIES, *paths, over=over)
    assert done.returncode == 0, done.stdout[-4000:]
    assert int(done.stdout.rpartition(" passed")[0].rsplit(maxsplit=1)[-1]) > 40
