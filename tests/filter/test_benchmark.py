"""The benchmark of the filter: tables from records, by hand."""

import numpy as np
import pytest

from benchmarks.filter_figures import Table, added, advantage, baselines, by_image, chair_row, ranking, truncation
from benchmarks.filter_guarantees import carried_over, splits
from benchmarks.filter_scenes import options_of
from benchmarks.filter_signals import ranked
from vtokens.filter.calibrators.records import LabelledResponse
from vtokens.filter.guarantees.risk import Risk
from vtokens.filter.mentions import Mention
from vtokens.filter.signals import get_signals


def record(image, names, wrong, truth, kind="caption", nll=None):
    """A caption, a sentence a mention."""
    mentions = [Mention(0, 1, "x", "object", name, sentence=i, order=i) for i, name in enumerate(names)]
    nll = [float(name in wrong) for name in names] if nll is None else nll
    signals = {"nll": nll, "position": [float(i) for i in range(len(names))], "repetition": [0.0] * len(names)}
    labels = [name in wrong for name in names]
    return LabelledResponse(image, "?", "x", mentions, signals if names else {}, labels, {"kind": kind, "truth": truth})


ROWS = [
    record("a", ["cat", "dog"], ["dog"], ["cat"]),
    record("b", [], [], ["cat"]),
    record("c", ["cat", "cow", "dog"], ["dog"], ["cat", "cow"]),
    record("d", ["dog"], [], ["dog"], kind="pope_random"),
]


@pytest.mark.parametrize(
    ("arguments", "signals"),
    [
        ([], get_signals("full")),
        (["--signals", "fast"], get_signals("fast")),
        (["--signals", "nll"], get_signals("nll")),
        (["--signals", "nll", "margin"], get_signals(["nll", "margin"])),
    ],
)
def test_signals_are_named_one_by_one_or_as_a_set(arguments, signals):
    assert get_signals(options_of(arguments).signals) == signals


def test_table_keeps_the_order_of_mentions():
    table = Table.of(ROWS)
    assert table.labels.tolist() == [False, True, False, False, True, False]
    assert table.images.tolist() == ["a", "a", "c", "c", "c", "d"]
    assert table.signals["position"].tolist() == [0, 1, 0, 1, 2, 0]
    assert table.strata.tolist() == ["caption 0", "caption 1", "caption 0", "caption 1", "caption 2", "answer 0"]
    part = table.where(~table.caption)
    assert (part.labels.tolist(), part.claims.tolist()) == ([False], ["dog False"])


def test_ranking_beside_position():
    table = Table.of(ROWS)
    assert ranking(table.signals["nll"], table, 20)["auroc"]["value"] == 1
    assert ranking(table.signals["position"], table, 20)["auroc"]["value"] == pytest.approx((3.5 + 4) / 8)
    assert ranking(table.signals["position"], table, 20)["stratified"]["value"] == 0.5
    more = advantage(table.signals["nll"], table.signals["position"], table, 20)
    assert more["auroc"]["value"] == pytest.approx(1 - 7.5 / 8)
    assert more["stratified"]["value"] == 0.5
    right = table.where(~table.labels)
    assert ranking(right.signals["nll"], right, 20)["auroc"] is None


def test_each_signal_alone():
    rows = {row["signal"]: row for row in ranked(ROWS, 20)}
    assert list(rows) == ["nll", "position", "repetition"]
    assert [rows[name]["auroc"]["value"] for name in ("nll", "repetition")] == [1, 0.5]
    assert [(row["passes"], row["n"], row["positives"]) for row in rows.values()] == [(0, 6, 2)] * 3


def test_what_a_signal_adds():
    table = Table.of(ROWS)
    found = added(table.signals["nll"], np.zeros(6), table, 20)
    assert (found["auroc"]["value"], found["ap"]["value"]) == pytest.approx((0.5, 1 - 2 / 6), abs=1e-5)


def test_claims_are_learnt_from_other_records():
    table = Table.of(ROWS)
    unseen = Table.of([record("e", ["dog", "cow", "owl"], [], [])])
    found = baselines(table, unseen)["what is claimed"]
    mean = 2 / 6
    assert found.tolist() == pytest.approx([(2 + 5 * mean) / 8, 5 * mean / 6, mean])


def test_chair_of_what_is_kept():
    found = chair_row(ROWS[:3], [[True, False], [], [True, True, True]], 20)
    assert found["chair_i"]["value"] == 1 / 4
    assert found["recall"]["value"] == 3 / 4
    assert found["chair_s"]["value"] == pytest.approx(1 / 3)


def test_truncation_beside_the_filter_at_the_same_recall():
    rows = truncation(ROWS[:3], [[0.1, 0.9], [], [0.1, 0.2, 0.9]], 20)
    assert [row["objects"] for row in rows] == [1, 2, 3]
    assert rows[0]["truncated"]["recall"]["value"] == rows[0]["filtered"]["recall"]["value"] == 2 / 4
    assert rows[1]["truncated"]["recall"]["value"] == rows[1]["filtered"]["recall"]["value"] == 3 / 4
    assert rows[1]["truncated"]["chair_i"]["value"] == 1 / 4
    assert rows[1]["filtered"]["chair_i"]["value"] == 0


def test_parts_share_no_image():
    first, second = by_image([*ROWS, *ROWS])
    assert {r.image for r in first} == {"a", "c"}
    assert {r.image for r in second} == {"b", "d"}
    assert len(first) == len(second) == 4


def test_guarantees_over_splits():
    rng = np.random.default_rng(0)
    labels = [[bool(h) for h in rng.random(3) < 0.2] for _ in range(300)]
    scores = [[float(rng.normal(2 * h)) for h in row] for row in labels]
    found = splits(scores, labels, Risk("any", 0.1, None), 60)
    assert found["calibration_responses"] == 150
    assert found["risk"] == pytest.approx(0.1, abs=0.02)
    assert found["unfiltered"] == pytest.approx(np.mean([any(row) for row in labels]), abs=1e-5)
    assert 0 < found["kept"] < 1
    assert found["feasible"] == 1
    sure = splits(scores, labels, Risk("any", 0.1, 0.1), 60)
    assert sure["broken"] <= 0.2 < found["broken"]
    assert sure["kept"] < found["kept"]
    never = splits(scores, labels, Risk("any", 0.001, 0.1), 5)
    assert (never["feasible"], never["kept"], never["risk"]) == (0, None, 0)


def test_a_threshold_carried_over():
    calibration = [[0.1], [0.9]] * 30, [[False], [True]] * 30
    shifted = [[0.1], [0.1]], [[False], [True]]
    [row] = carried_over(calibration, {"shifted": shifted}, Risk("any", 0.1, None))
    assert (row["set"], row["unfiltered"], row["risk"], row["kept"]) == ("shifted", 0.5, 0.5, 1.0)
