"""Settings: two models differ, one model in two precisions does not, and mixtures are refused."""

import pytest
import torch

import vtokens
from tests.families import build
from vtokens.filter.calibrators.records import LabelledResponse
from vtokens.filter.guarantees.setting import CalibrationSetting, fingerprint
from vtokens.strategies import format_spec, parse


def test_fingerprint_knows_the_weights_and_not_the_precision():
    model = build("llava", seed=1)[0]
    print_ = fingerprint(model)
    assert print_.startswith("llava-")
    assert fingerprint(model.to(torch.bfloat16)) == print_
    assert fingerprint(build("llava", seed=2)[0]) != print_
    with torch.no_grad():
        next(model.parameters()).flatten()[-1] += 1
    assert fingerprint(model) != print_


def test_fingerprint_of_a_model_without_storage():
    on_meta = build("llava")[0].to("meta")
    assert fingerprint(on_meta) == fingerprint(build("llava", seed=5)[0].to("meta"))


def test_setting_names_what_is_attached():
    model = build("llava")[0]
    plain = CalibrationSetting.of(model, prompts="captions")
    assert (plain.strategy, plain.prompts, plain.decoding) == ("none", "captions", "greedy")
    with vtokens.attach(model, "none"):
        assert CalibrationSetting.of(model, prompts="captions") == plain
    with vtokens.attach(model, "fastv", keep=0.5):
        pruned = CalibrationSetting.of(model, prompts="captions")
    assert plain.differences(pruned) == [f"strategy 'none' against {pruned.strategy!r}"]
    assert "fastv" in pruned.strategy
    assert CalibrationSetting.of(model) == CalibrationSetting(plain.model)


def test_setting_names_what_runs_inside_a_block():
    model = build("llava")[0]
    with vtokens.attach(model, "none") as handle:
        with handle.using("fastv(keep=0.5)"):
            assert CalibrationSetting.of(model).strategy == format_spec(parse("fastv(keep=0.5)"))
        with handle.using(["fastv(keep=0.5)", "none", "none"]):
            assert CalibrationSetting.of(model).strategy == f"{format_spec(parse('fastv(keep=0.5)'))} | none"
        assert CalibrationSetting.of(model).strategy == "none"


def record(**meta):
    return LabelledResponse("a", "?", "", [], {}, [], meta)


def test_setting_of_records():
    setting = CalibrationSetting("m", "fastv", "captions", "greedy", "scenes")
    assert CalibrationSetting.of_records([record(**setting.meta, task="x"), record(**setting.meta)]) == setting
    with pytest.raises(ValueError, match="there are no records"):
        CalibrationSetting.of_records([])
    with pytest.raises(ValueError, match="image 'a' does not say in meta its strategy, prompts, decoding, extractor"):
        CalibrationSetting.of_records([record(model="m")])
    with pytest.raises(ValueError, match=r"several settings .decoding 'greedy' against 'sample'"):
        CalibrationSetting.of_records([record(**setting.meta), record(**{**setting.meta, "decoding": "sample"})])
