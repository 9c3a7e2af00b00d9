"""Calibrators: scikit-learn's own numbers from plain arrays, the same after a round trip, and refusals by number."""

import json
import math

import numpy as np
import pytest

from vtokens.filter.calibrators import calibrator as module
from vtokens.filter.calibrators.calibrator import CalibrationWarning, Calibrator
from vtokens.filter.calibrators.fitting import matrix, sklearn_link, sklearn_model, split
from vtokens.filter.calibrators.records import LabelledResponse
from vtokens.filter.guarantees.calibration import Calibration
from vtokens.filter.guarantees.risk import Risk
from vtokens.filter.guarantees.setting import CalibrationSetting
from vtokens.filter.mentions import Mention

SETTING = CalibrationSetting("llava-1", "none", "captions", "greedy", "scenes")
NAMES = ("nll", "position", "constant")


def records(images, seed=0, rate=0.3, first=0, setting=SETTING):
    """Responses of up to four mentions; one signal tells, one tells a little through a threshold, one nothing."""
    rng = np.random.default_rng(seed)
    found = []
    for image in range(first, first + images):
        n = int(rng.integers(0, 5))
        position = rng.integers(0, 4, size=n)
        labels = rng.random(n) < np.where(position >= 2, 1.5, 0.5) * rate
        signals = {"nll": rng.normal(labels * 1.5), "position": position, "constant": np.ones(n)}
        mentions = [Mention(0, 1, "a", "object", "a", order=i) for i in range(n)]
        rows = {name: [float(v) for v in values] for name, values in signals.items()}
        found.append(LabelledResponse(image, "?", "a", mentions, rows, [bool(label) for label in labels], setting.meta))
    return found


@pytest.mark.parametrize(
    ("estimator", "images", "kinds"),
    [
        ("logistic", 300, ("logistic", "sigmoid")),
        ("logistic", 2000, ("logistic", "isotonic")),
        ("boosting", 300, ("trees", "sigmoid")),
        ("auto", 2000, ("logistic", "isotonic")),
        ("auto", 4500, ("trees", "isotonic")),
    ],
)
def test_predictions_are_scikit_learns_and_survive_saving(tmp_path, estimator, images, kinds):
    rows = records(images)
    found = Calibrator.fit(rows, NAMES, estimator)
    assert (found.estimator.to_dict()["kind"], found.link.to_dict()["kind"]) == kinds
    first, second = split(rows, None, 0)
    fit, held = matrix(first, NAMES, "fit"), matrix(second, NAMES, "calibration")
    model = sklearn_model(estimator, len(fit[1])).fit(*fit)
    theirs = sklearn_link(model, *held)
    fresh = matrix(records(200, seed=9, first=10**6), NAMES, "test")[0]
    signals = dict(zip(NAMES, fresh.T, strict=True))
    assert found.score(signals) == pytest.approx(model.decision_function(fresh), abs=1e-12)
    expected = theirs.predict_proba(fresh)[:, 1]
    if kinds[1] == "isotonic":
        expected = 0.999 * expected + 0.001 / (1 + np.exp(-model.decision_function(fresh)))
    assert found.predict(signals) == pytest.approx(expected, abs=1e-12)
    again = Calibrator.load(found.save(tmp_path / "c.json"))
    assert (again.predict(signals) == found.predict(signals)).all()
    assert (again.score(signals) == found.score(signals)).all()
    assert (again.setting, again.names, again.fitted) == (found.setting, found.names, found.fitted)
    again.save(tmp_path / "again.json")
    assert (tmp_path / "c.json").read_bytes() == (tmp_path / "again.json").read_bytes()


def test_probabilities_are_calibrated_on_other_images():
    from vtokens.eval.metrics.detection import ece

    found = Calibrator.fit(records(1500), NAMES)
    signals, labels = matrix(records(4000, seed=5, first=10**6), NAMES, "test")
    p = found.predict(dict(zip(NAMES, signals.T, strict=True)))
    assert ece(p, labels.astype(float)) < 0.03
    assert p.mean() == pytest.approx(labels.mean(), abs=0.02)


def test_parts_share_no_image_and_do_not_depend_on_the_order():
    rows = records(200) + records(200, seed=1)
    first, second = split(rows, None, 0)
    assert not {r.image for r in first} & {r.image for r in second}
    assert len(first) + len(second) == len(rows)
    backwards = split(rows[::-1], None, 0)
    assert {r.image for r in backwards[1]} == {r.image for r in second}
    assert {r.image for r in split(rows, None, 1)[1]} != {r.image for r in second}
    counts = Calibrator.fit(rows, NAMES).fitted
    assert counts["fit"]["images"] == len({r.image for r in first})
    assert counts["calibration"]["mentions"] == sum(len(r.mentions) for r in second)
    assert sum(part["unsupported"] for part in counts.values()) == sum(sum(r.labels) for r in rows)


def test_responses_without_mentions_have_no_signals():
    rows = records(100)
    bare = [LabelledResponse(r.image, "?", "a", [], {}, [], SETTING.meta) if not r.mentions else r for r in rows]
    empty = LabelledResponse(-1, "?", "", [], {}, [], SETTING.meta)
    assert Calibrator.fit(bare).to_dict() == Calibrator.fit(rows).to_dict()
    assert Calibrator.fit([empty, *bare]).names == NAMES


def test_calibration_records_of_ones_own():
    found = Calibrator.fit(records(100), calibration=records(60, seed=2, first=1000))
    assert found.names == NAMES
    assert (found.fitted["fit"]["responses"], found.fitted["calibration"]["responses"]) == (100, 60)
    with pytest.raises(ValueError, match="40 images are in the records to fit on and to calibrate on, 60 among them"):
        Calibrator.fit(records(100), calibration=records(60, first=60))


def test_the_setting_is_that_of_the_responses_that_make_probabilities():
    given = CalibrationSetting("llava-1", "none", "captions", "given", "scenes")
    mixed = records(60) + records(60, seed=3, first=500, setting=given)
    assert Calibrator.fit(mixed, calibration=records(60, seed=2, first=1000)).setting == SETTING
    with pytest.raises(ValueError, match="several settings"):
        Calibrator.fit(mixed)
    other = CalibrationSetting("llava-2", "none", "captions", "greedy", "scenes")
    with pytest.raises(ValueError, match=r"to fit on are of the models \['llava-2'\], not of 'llava-1'"):
        Calibrator.fit(records(60, setting=other), calibration=records(60, seed=2, first=1000))


def changed(row, **signals):
    return LabelledResponse(
        row.image, row.prompt, row.response, row.mentions, {**row.signals, **signals}, row.labels, row.meta
    )


def spoilt(value):
    rows = records(60)
    index = next(i for i, row in enumerate(rows) if row.mentions)
    rows[index] = changed(rows[index], nll=[value] * len(rows[index].mentions))
    return rows, len(rows[index].mentions)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_signals_that_are_not_finite(value):
    rows, count = spoilt(value)
    with pytest.raises(ValueError, match=rf"signal 'nll' is not finite for {count} of \d+ mentions"):
        Calibrator.fit(rows)


@pytest.mark.parametrize(
    ("rows", "more", "message"),
    [
        (records(200, rate=0), {}, r"the fit part has \d+ mentions, 0 of them unsupported: it takes at least 5"),
        (records(12), {}, r"the (fit|calibration) part has \d+ images, it takes at least 10"),
        ([], {}, "there are no records"),
        (records(60), {"names": ["nll", "lens"]}, r"the record of image \d+ has no signals \['lens'\]"),
        (records(60), {"names": []}, "there are no signals to fit on"),
        (records(60), {"estimator": "boost"}, "unknown estimator 'boost'. Did you mean 'boosting'"),
        (
            records(30) + records(30, setting=CalibrationSetting("llava-2", "none", "captions", "greedy", "scenes")),
            {},
            "settings",
        ),
    ],
)
def test_what_cannot_be_fitted(rows, more, message):
    with pytest.raises(ValueError, match=message):
        Calibrator.fit(rows, **more)


def test_signals_must_be_those_it_was_fitted_on():
    found = Calibrator.fit(records(100))
    with pytest.raises(ValueError, match=r"signals \['position', 'constant'\] are missing"):
        found.predict({"nll": [0.5]})
    with pytest.raises(ValueError, match=r"of one length, got .*'position': \(2,\)"):
        found.predict({"nll": [0.5], "position": [1, 2], "constant": [1]})
    with pytest.raises(ValueError, match="signal 'nll' has 1 values that are not finite"):
        found.predict({"nll": [math.nan], "position": [1], "constant": [1]})
    assert found.predict({name: [] for name in NAMES}).shape == (0,)
    assert found.predict({name: [1.0] for name in (*NAMES, "more")}).shape == (1,)


def test_another_setting_is_refused_or_warned_of():
    found = Calibrator.fit(records(100))
    assert found.check(SETTING, "error") == []
    pruned = CalibrationSetting("llava-1", "cls(keep=0.5)", "captions", "greedy", "scenes")
    with pytest.warns(CalibrationWarning, match=r"strategy 'cls\(keep=0.5\)' against 'none' when it was fitted"):
        found.check(pruned)
    with pytest.raises(ValueError, match="Fit one on records of this setting"):
        found.check(pruned, "error")
    other = CalibrationSetting("llava-2", "none", "captions", "greedy", "scenes")
    with pytest.raises(ValueError, match="model 'llava-2' against 'llava-1'"):
        found.check(other)
    assert found.check(other, "ignore") == ["model 'llava-2' against 'llava-1'"]
    with pytest.raises(ValueError, match=r"unknown way to treat a mismatch 'warning'. Did you mean 'warn'"):
        found.check(other, "warning")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda text: text[:50], "Unterminated|Expecting"),
        (lambda text: "[1]", "it does not say that it is one"),
        (lambda text: text.replace('"schema": 1', '"schema": 2'), "it has schema 2 and this vtokens reads 1"),
        (
            lambda text: text.replace('"logistic"', '"forest"'),
            "no calibrator that can be read: estimator: input tag 'forest'",
        ),
        (lambda text: json.dumps({k: v for k, v in json.loads(text).items() if k != "link"}), "link is missing"),
    ],
)
def test_files_that_are_no_calibrator(tmp_path, spoil, message):
    path = Calibrator.fit(records(100)).save(tmp_path / "c.json")
    assert module.SCHEMA == 1
    path.write_text(spoil(path.read_text()))
    with pytest.raises(ValueError, match=message):
        Calibrator.load(path)


def test_probabilities_keep_the_order_of_scores():
    """Isotonic regression alone ties most of them."""
    found = Calibrator.fit(records(2000), NAMES, "logistic")
    signals = {"nll": np.linspace(-3, 4, 500), "position": np.ones(500), "constant": np.ones(500)}
    p = found.predict(signals)
    assert (np.diff(p) > 0).all()
    assert ((p > 0) & (p < 1)).all()
    assert (np.diff(np.interp(found.score(signals), found.link.x, found.link.y)) == 0).sum() > 50


def test_thresholds_take_other_images():
    found = Calibrator.fit(records(100))
    assert len(Calibration.of(records(50, first=1000), found, Risk()).scores) == 50
    with pytest.raises(
        ValueError, match="50 images of these records are among those that the calibrator was fitted on"
    ):
        Calibration.of(records(80, first=50), found, Risk())
