"""DyMU's settings and thresholds: what is read, what fits a tower, what is refused and how."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import vtokens
from tests.families import build, image, inputs
from vtokens.adapters import adapter_for
from vtokens.strategies import format_spec, parse, to_dict
from vtokens.strategies.merge.dymu import Dymu
from vtokens.tables import thresholds as tables
from vtokens.tables.thresholds import Table, TargetThresholds


def table(model: Any, *settings: TargetThresholds) -> Table:
    """Thresholds for the tower of `model`."""
    facts = adapter_for(model).facts
    return Table(
        facts.tower, facts.tower_sample, "made up", settings or (TargetThresholds(0.5, 0.5, (0.25,), (0.6, 0.5)),)
    )


def patches_left(model: Any, spec: Any, **options: Any) -> int:
    """Visual tokens after DyMU."""
    batch = inputs("llava", ["what?"], [[image(100, 60, seed=0)]])
    with torch.no_grad(), vtokens.attach(model, spec, **options) as handle:
        model(**batch)
        return handle.report().samples[0].visual_tokens[0]


def test_text_and_dicts_give_the_same_strategy() -> None:
    """Each way, with every field."""
    for text in ("dymu", "dymu(target='low')", "dymu(thresholds='t.json', target=0.35, unmerge=False)"):
        (strategy,) = parse(text)
        assert format_spec([strategy]) == text
        assert parse(to_dict(strategy)) == (strategy,)
    (numbers,) = parse("dymu(thresholds=(0.9, 0.8))")
    assert parse(json.loads(json.dumps(to_dict(numbers)))) == (numbers,)
    assert vtokens.describe("dymu").stages == ("encode", "prompt")


def test_thresholds_from_a_file(tmp_path: Path) -> None:
    """The only setting without being named, others by share or by the paper's names; what is written is read again."""
    model = build("llava")[0]
    one, several = tmp_path / "one.json", tmp_path / "several.json"
    table(model).save(one)
    low, mid = TargetThresholds(0.15, 0.16, (0.3, 0.3), (-1.0, -1.0, -1.0)), TargetThresholds(0.34, 0.3, (0.2,), (0.7,))
    table(model, low, mid).save(several)
    assert tables.read(several).settings == (low, mid)
    assert patches_left(model, "dymu", thresholds=str(one)) == patches_left(model, Dymu((0.6, 0.5)))
    assert patches_left(model, "dymu", thresholds=str(several)) == patches_left(model, Dymu((0.7,)))
    for target in ("low", 0.15):
        assert patches_left(model, "dymu", thresholds=str(several), target=target) == 2
    with pytest.raises(ValueError, match=r"thresholds for the targets 0.15, 0.34, not for 0.5: get them with `vtokens"):
        vtokens.attach(model, "dymu", thresholds=str(several), target=0.5)


def test_half_precision_weights_are_still_the_same_tower(tmp_path: Path) -> None:
    """The sample of weights is compared within what rounding does to it."""
    model = build("llava")[0]
    path = tmp_path / "t.json"
    table(model).save(path)
    for dtype in (torch.float16, torch.bfloat16):
        vtokens.attach(copy.deepcopy(model).to(dtype), "dymu", thresholds=str(path)).detach()


def test_thresholds_of_another_tower_are_refused(tmp_path: Path) -> None:
    """Another shape, and the same shape with other weights; nothing stays attached."""
    model, path = build("llava")[0], tmp_path / "t.json"
    table(build("llava_onevision")[0]).save(path)
    with pytest.raises(
        ValueError, match=r"the vision tower 'siglip_vision_model-4x32-14-56'; this one is 'clip_vision"
    ):
        vtokens.attach(model, "dymu", thresholds=str(path))
    table(build("llava", seed=1)[0]).save(path)
    with pytest.raises(ValueError, match="but with other weights than this one's"):
        vtokens.attach(model, "dymu", thresholds=str(path))
    assert vtokens.attachment(model) is None


def test_a_model_without_thresholds_says_how_to_get_them() -> None:
    """None ship for this tower."""
    with pytest.raises(ValueError, match=r"no thresholds ship for .* get them with `vtokens calibrate dymu MODEL"):
        vtokens.attach(build("llava")[0], "dymu")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema": 2}', '{"schema": 1, "settings": [{"target": 1}]}'])
def test_other_files_are_refused(tmp_path: Path, content: str) -> None:
    """By name, with the way to write a right one."""
    path = tmp_path / "t.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"t.json' holds no thresholds .*: write it with `vtokens calibrate dymu"):
        vtokens.attach(build("llava")[0], "dymu", thresholds=str(path))
    with pytest.raises(ValueError, match="holds no thresholds"):
        vtokens.attach(build("llava")[0], "dymu", thresholds=str(tmp_path / "missing.json"))


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"target": "lowest"}, ValueError, "Did you mean 'low'"),
        ({"target": 2.0}, ValueError, r"target=2.0 is out of range: a share of the patches in \(0, 1\)"),
        ({"target": 3}, ValueError, "target=3.0 is out of range"),
        ({"thresholds": (0.5, "x")}, TypeError, r"'x'\) is not allowed: a text or a tuple of numbers or None is"),
        ({"thresholds": (float("nan"),)}, ValueError, "numbers have to be finite"),
        ({"thresholds": 0.5}, TypeError, r"thresholds=0.5 is not allowed: .* Did you mean thresholds=\(0.5,\)"),
        ({"thresholds": (0.5,), "target": "low"}, ValueError, "leave one of the two out"),
        ({"unmerge": 1}, TypeError, "unmerge=1 is not allowed: True or False is"),
    ],
)
def test_settings_out_of_range(fields: dict[str, Any], error: type[Exception], message: str) -> None:
    """Told before any model is there."""
    with pytest.raises(error, match=message):
        parse({"name": "dymu", **fields})


def test_it_is_there_once() -> None:
    """Twice, or beside another that merges in the tower, makes no sense."""
    model = build("llava")[0]
    with pytest.raises(ValueError, match="names 'dymu' twice"):
        vtokens.attach(model, [Dymu((0.5,)), Dymu((0.6,))])


def test_the_embedded_model_has_thresholds() -> None:
    """For low, mid and high, within a point of their targets on the pictures measured."""
    model, _ = vtokens.load("scenes-llava", strategy="dymu")
    found = tables.known(adapter_for(model).facts)
    assert found is not None
    assert [setting.target for setting in found.settings] == list(tables.NAMED.values())
    assert all(abs(setting.left - setting.target) < 0.01 for setting in found.settings)
