"""The embedded model, and answers of it that are wrong here and there."""

from __future__ import annotations

import pytest

from vtokens import load, scenes


@pytest.fixture(scope="session")
def embedded():
    model, processor = load("scenes-llava", strategy="none")
    return model.eval(), processor


@pytest.fixture(scope="session")
def captions():
    return scenes.examples("partner-removed", n=12, seed=3, kinds=["caption"])
