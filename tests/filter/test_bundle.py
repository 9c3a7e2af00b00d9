"""Bundles: thresholds on probabilities for mentions, sentences and responses, and what ships."""

import numpy as np
import pytest

from tests.filter.test_calibrator import SETTING, records
from vtokens.filter.bundle import Bundle, find, shipped
from vtokens.filter.calibrator import Calibrator
from vtokens.filter.conformal import threshold
from vtokens.filter.mentions import Mention
from vtokens.filter.records import Record
from vtokens.filter.risk import Risk
from vtokens.filter.setting import Setting


def sentenced(rows):
    """The same responses, two mentions a sentence."""
    found = []
    for row in rows:
        mentions = [Mention(0, 1, "a", "object", "a", sentence=i // 2, order=i) for i in range(len(row.mentions))]
        found.append(Record(row.image, row.prompt, row.response, mentions, row.signals, row.labels, row.meta))
    return found


@pytest.fixture(scope="module")
def bundle():
    return Bundle.of(Calibrator.fit(records(300)), sentenced(records(300, seed=1, first=1000)))


def test_units_are_judged_by_their_worst_mention(bundle):
    risk = Risk("any", 0.2, None)
    found = {unit: bundle.certificate(risk, unit) for unit in ("mention", "sentence", "response")}
    by_hand = {"mention": [], "sentence": [], "response": []}
    for p, sentence in zip(bundle.scores, bundle.sentences, strict=True):
        by_hand["mention"].append(p)
        by_hand["sentence"].append([max(q for q, t in zip(p, sentence, strict=True) if t == s) for s in sentence])
        by_hand["response"].append([max(p)] * len(p) if p else [])
    for unit, scores in by_hand.items():
        assert found[unit] == threshold(scores, bundle.labels, risk, setting=SETTING)
    kept = [found[unit].kept_supported for unit in by_hand]
    assert kept[0] > kept[1] > kept[2] > 0
    assert found["sentence"].setting == SETTING
    with pytest.raises(ValueError, match=r"unknown unit 'sentences'. Did you mean 'sentence'"):
        bundle.certificate(risk, "sentences")


def test_saved_bundle_is_the_same(bundle, tmp_path):
    again = Bundle.load(bundle.save(tmp_path / "b.json"))
    assert again.to_dict() == bundle.to_dict()
    assert again.certificate(Risk("any", 0.2)) == bundle.certificate(Risk("any", 0.2))
    for text in ("{}", "[", '{"calibrator": {}, "calibration": {}}'):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(ValueError, match=r"bad\.json: "):
            Bundle.load(tmp_path / "bad.json")


def test_images_that_were_fitted_on_are_refused(bundle):
    rows = records(300)
    with pytest.raises(ValueError, match="300 of these records' images, 0 among them, are those the calibrator was"):
        Bundle.of(bundle.calibrator, rows)
    other = Setting("llava-1", "cls(keep=0.5)", "captions", "greedy", "scenes")
    with pytest.raises(ValueError, match="other conditions: strategy"):
        Bundle.of(bundle.calibrator, records(30, first=5000, setting=other))


def test_a_bundle_without_responses_promises_nothing(bundle):
    with pytest.raises(ValueError, match="no responses to calibrate a threshold on"):
        Bundle.of(bundle.calibrator).certificate(Risk())


def test_what_ships_can_be_read_and_found():
    for path in shipped():
        bundle = Bundle.load(path)
        setting = bundle.calibrator.setting
        assert find(Setting(setting.model, setting.strategy, "other", setting.decoding, setting.extractor)) is not None
        assert np.isfinite([p for row in bundle.scores for p in row]).all()
    assert find(Setting("llava-none")) is None
