"""The real scenes-smol for the tests that need it, loaded once a process; where it cannot be, the reason to skip."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

import vtokens
from vtokens.core.errors import MissingExtra
from vtokens.scenes import Example, embedded_models
from vtokens.scenes.smol.package import language_file

NAME = "scenes-smol"
MASSIVE = 507  # the one massive dimension of SmolLM2-135M


def load_or_skip() -> tuple[Any, Any]:
    """(model, processor) in float32, nothing attached."""
    if NAME not in embedded_models():
        pytest.skip("no trained adapter of scenes-smol ships")
    try:
        language_file()
        return _loaded()
    except MissingExtra as error:
        pytest.skip(str(error))


@cache
def _loaded() -> tuple[Any, Any]:
    model, processor = vtokens.load(NAME, "none", dtype=torch.float32)
    return model.eval(), processor


def batch(processor: Any, asked: list[Example]) -> dict[str, Any]:
    """The processor's batch of questions, padded on the left."""
    texts = [vtokens.scenes.prompt(processor, e.question) for e in asked]
    return dict(processor(images=[e.image for e in asked], text=texts, padding=True, return_tensors="pt"))
