"""The filters that ship: they belong to the embedded model and to the signals as they are now."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import vtokens
from vtokens import scenes, video
from vtokens.filter import HallucinationFilter
from vtokens.filter.actions.generation import FilterGeneration
from vtokens.filter.calibrators.calibrator import CalibrationWarning
from vtokens.filter.guarantees.setting import fingerprint
from vtokens.filter.judge import Threshold
from vtokens.filter.saved import SHIPPED, find, read_filter
from vtokens.filter.signals import parts_for

STRATEGIES = ("none", "cls", "todre")  # as a handle has them: fields at their defaults are left out


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
    fine = np.mean([mention.p for report in right for mention in report.mentions])
    if strategy == "todre":  # a tenth of the tokens: what the model did not see it does not support either
        assert np.mean(wrong) > fine + 0.3
        return
    assert np.mean(wrong) > 0.8
    assert fine < 0.1


def test_probabilities_are_of_single_pictures_only(loaded, tmp_path):
    """A video, and two pictures, are judged as without a calibrator; the picture beside them as alone."""
    model, processor = loaded
    first, other = scenes.examples("test", n=2, seed=41, kinds=["caption"])
    clip = video.read(np.stack([np.asarray(first.image.convert("RGB"))] * 2))
    shown, prompts = [[first.image], [clip], [first.image, other.image]], [first.question] * 3
    texts = [other.answer] * 3
    hf = HallucinationFilter.from_pretrained(model, processor)
    with pytest.warns(CalibrationWarning, match=r"images\[1\] is a video, .* fitted on responses about one picture"):
        reports = hf.check(shown, prompts, texts)
    assert [report.calibrated for report in reports] == [True, False, False]
    alone = hf.check(first.image, first.question, other.answer)
    plain = HallucinationFilter.from_pretrained(model, processor, extractor="scenes", calibrator=None)
    expected = [alone, *plain.check(shown[1:], prompts[1:], texts[1:])]
    for report, right in zip(reports, expected, strict=True):
        assert len(report.mentions) == len(right.mentions) > 0
        assert [one.p for one in report.mentions] == pytest.approx([one.p for one in right.mentions], abs=1e-4)
    # Kinds that it was not fitted on are not judged about one picture, and are about two, where it is not used.
    objects = replace(hf.judge.calibrator, kinds={"object": 1})
    judge, parts = (
        replace(hf.judge, calibrator=objects, single=True),
        parts_for(hf.judge.signals, model.config.text_config.num_hidden_layers),
    )
    reads = FilterGeneration(model, processor, judge, parts, Threshold(), hf.setting(), 2).read
    counted = [one.report for one in reads([shown[0], shown[2]], ["How many circles are there?"] * 2, ["two"] * 2)]
    assert [[one.kind for one in report.mentions] for report in counted] == [[], ["count"]]
    assert [report.unjudged for report in counted] == [("two",), ()]
    # A copy of its file is the same calibrator, and what it cannot judge it cannot guarantee.
    copy = HallucinationFilter.from_pretrained(model, processor, calibrator=hf.save(tmp_path / "copy.json"))
    for act in (copy.check, copy.act):
        with pytest.raises(
            ValueError, match=r"is 2 pictures, .* no risk can be guaranteed: show one picture, give thr"
        ):
            act(shown[2], prompts[2], texts[2], risk=0.2)
    with pytest.raises(ValueError, match=r"is a video, .* no risk can be guaranteed"):
        hf.generate([clip], first.question, "redact")
