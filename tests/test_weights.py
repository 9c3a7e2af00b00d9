"""Weights that are offloaded, on no device or quantised: fingerprints and tables know them, or say that they do not."""

from __future__ import annotations

import copy
import importlib
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, disk_offload

import vtokens
from tests.families import build, image, inputs
from vtokens import scenes
from vtokens.adapters import adapter_for
from vtokens.core.weights import doubts, input_device
from vtokens.filter.calibrators.calibrator import CalibrationWarning
from vtokens.filter.guarantees.setting import fingerprint
from vtokens.tables.thresholds import Table, TargetThresholds

CPU = torch.device("cpu")


def offloaded(how: str, model: Any, folder: Path) -> Any:
    model = copy.deepcopy(model)
    if how == "disk":
        disk_offload(model, str(folder), execution_device=CPU)
    else:
        cpu_offload(model, execution_device=CPU)
    assert next(model.parameters()).is_meta
    return model


@pytest.fixture(scope="module")
def shipped() -> tuple[Any, Any]:
    return vtokens.load("scenes-llava", strategy="none")


@pytest.mark.parametrize("how", ["cpu", "disk"])
def test_an_offloaded_model_is_recognised_and_judged(how: str, shipped: tuple[Any, Any], tmp_path: Path) -> None:
    """Its calibrator is found, and says what it says of the model that lies on a device."""
    model, processor = shipped
    away = offloaded(how, model, tmp_path)
    assert fingerprint(away) == fingerprint(model)
    assert doubts(away) is None
    assert input_device(away) == CPU
    picture, said = scenes.examples("test", n=1)[0].image, "There is a red circle and a dog."
    reports = []
    for one in (model, away):
        hf = vtokens.HallucinationFilter.from_pretrained(one, processor)
        assert hf.judge.calibrator is not None
        reports.append(hf.check(picture, "Describe the image.", said))
    assert str(reports[0]) == str(reports[1])


@pytest.mark.parametrize(
    "spec", ["none", "cls(keep=0.5)+fastv(keep=0.5, layer=2)", "vhr", "dymu(thresholds=(0.5, 0.5))"]
)
def test_an_offloaded_model_answers_under_strategies(spec: str, tmp_path: Path) -> None:
    model, processor = build("llava")
    batch = dict(inputs(processor, ["what is <image> this?"], [[image(84, 84, seed=1)]]))
    away = offloaded("cpu", model, tmp_path)
    with torch.no_grad(), vtokens.attach(model, spec), vtokens.attach(away, spec):
        assert torch.equal(away.generate(**batch, max_new_tokens=3), model.generate(**batch, max_new_tokens=3))


def test_thresholds_are_compared_with_offloaded_weights(tmp_path: Path) -> None:
    model = build("llava")[0]
    facts, setting = adapter_for(model).facts, TargetThresholds(0.5, 0.5, (0.25,), (0.4, 0.4))
    right, wrong = tmp_path / "right.json", tmp_path / "wrong.json"
    Table(facts.tower, facts.tower_sample, "made up", (setting,)).save(right)
    Table(facts.tower, tuple(value + 1 for value in facts.tower_sample), "another", (setting,)).save(wrong)
    away = offloaded("cpu", model, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vtokens.attach(away, f"dymu(thresholds={str(right)!r})").detach()
    with pytest.raises(ValueError, match="other weights than this one's"):
        vtokens.attach(away, f"dymu(thresholds={str(wrong)!r})")
    # On no device, and nobody keeps them: it cannot be known, which is said.
    nowhere = build("llava")[0].to("meta")
    with pytest.warns(
        UserWarning, match=f"is not known: the shape is '{re.escape(facts.tower)}', but weights could not"
    ):
        vtokens.attach(nowhere, f"dymu(thresholds={str(wrong)!r})").detach()


def test_what_cannot_be_known_of_a_calibrator_is_said(shipped: tuple[Any, Any]) -> None:
    """Without weights, with eight bits, with parameters of no size: none is used, and that is said."""
    model, processor = shipped
    eight, empty = copy.deepcopy(model).to(torch.float8_e4m3fn), copy.deepcopy(model)
    for parameter in empty.parameters():
        parameter.data = torch.empty(0)
    cases = {"are on no device": copy.deepcopy(model).to("meta"), "are quantised": eight, "are sharded": empty}
    for why, one in cases.items():
        with pytest.warns(CalibrationWarning, match=f"is not known, since its weights {why}.*: none is used"):
            hf = vtokens.HallucinationFilter.from_pretrained(one, processor)
        assert hf.judge.calibrator is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing ships for this family, and this model is known to be another
        vtokens.HallucinationFilter.from_pretrained(build("qwen2_vl")[0].to("meta"), build("qwen2_vl")[1])
        vtokens.HallucinationFilter.from_pretrained(*build("llava"))


def test_torchao_int8(shipped: tuple[Any, Any]) -> None:
    """It attaches, has a fingerprint of its own that follows its weights, and says what is not known."""
    pytest.importorskip("torchao")
    quantization = importlib.import_module("torchao.quantization")
    model, processor = shipped
    eight = copy.deepcopy(model)
    quantization.quantize_(eight, quantization.Int8WeightOnlyConfig())
    again = copy.deepcopy(model)
    quantization.quantize_(again, quantization.Int8WeightOnlyConfig())
    assert fingerprint(eight) == fingerprint(again) != fingerprint(model)
    with pytest.warns(CalibrationWarning, match="its weights are quantised"):
        hf = vtokens.HallucinationFilter.from_pretrained(eight, processor)
    example = scenes.examples("test", n=1)[0]
    assert hf.check(example.image, "Describe the image.", "There is a red circle.").mentions
    batch = processor(images=example.image, text=scenes.prompt(processor, example.question), return_tensors="pt")
    for spec in ("cls(keep=0.5)+fastv(keep=0.5, layer=2)", "dymu", "vhr"):
        with vtokens.attach(eight, spec):
            assert eight.generate(**batch, max_new_tokens=2).shape[0] == 1
