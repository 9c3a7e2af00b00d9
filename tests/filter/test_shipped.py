"""The filters that ship: they belong to the embedded model and to the signals as they are now."""

import numpy as np
import pytest
import torch

import vtokens
from vtokens import scenes
from vtokens.filter import HallucinationFilter
from vtokens.filter.guarantees.setting import fingerprint
from vtokens.filter.saved import SHIPPED, find, read_filter

STRATEGIES = ("none", "cls")  # as a handle has them: fields at their defaults are left out


@pytest.fixture(scope="module")
def loaded():
    return vtokens.load("scenes-llava", strategy="none", dtype=torch.float32)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_there_is_one_for_the_embedded_model(loaded, strategy):
    saved = find(fingerprint(loaded[0]), strategy)
    assert saved is not None
    assert saved.calibrator.setting.strategy == strategy
    assert saved.calibrator.setting == saved.calibration.setting
    assert saved.extractor == "scenes"
    wrong = sum(map(sum, saved.calibration.labels))
    assert wrong > 20
    assert np.isfinite([score for row in saved.calibration.scores for score in row]).all()


def test_nothing_else_ships():
    assert {read_filter(path).calibrator.setting.strategy for path in SHIPPED.glob("*.json")} == set(STRATEGIES)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_it_tells_right_captions_from_wrong_ones(loaded, strategy):
    """Captions of the scene, and of another scene: what is not there scores high, the right caption low."""
    model, processor = loaded
    shown = scenes.examples("test", n=8, seed=41, kinds=["caption"])
    other = scenes.examples("test", n=8, seed=42, kinds=["caption"])
    with vtokens.attach(model, strategy):
        hf = HallucinationFilter.from_pretrained(model, processor)
        images, prompts = [e.image for e in shown], [e.question for e in shown]
        right = hf.check(images, prompts, [e.answer for e in shown])
        foreign = hf.check(images, prompts, [e.answer for e in other])
    assert all(report.calibrated for report in right)
    wrong = []
    for example, report in zip(shown, foreign, strict=True):
        there = {thing.name for thing in example.scene.visible}
        wrong += [mention.p for mention in report.mentions if mention.name not in there]
    assert len(wrong) > 20
    assert np.mean(wrong) > 0.8
    assert np.mean([mention.p for report in right for mention in report.mentions]) < 0.1
