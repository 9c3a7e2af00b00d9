"""Responses that the filter's benchmarks keep are those of the model, strategy and signals that are asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import vtokens
from benchmarks.filter_records import collect

KINDS = {"caption": 2, "given_caption": 2}


def test_responses_of_another_model_or_other_signals_are_not_taken_for_these(tmp_path: Path) -> None:
    model, processor = vtokens.load("scenes-llava", strategy="none", dtype=torch.float32)
    vtokens.detach(model)
    model.eval()

    def found(signals: list[str]) -> list[str]:
        return [one.response for one in collect(model, processor, "none", "test", KINDS, signals, tmp_path)]

    first = found(["entropy"])
    assert found(["entropy"]) == first
    with pytest.raises(ValueError, match="other signals"):
        found(["entropy", "margin"])
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(-1)
    with pytest.raises(ValueError, match="responses of another model"):
        found(["entropy"])
