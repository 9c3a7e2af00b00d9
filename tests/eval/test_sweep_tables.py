"""Intervals, results and summaries of answers small enough to count by hand."""

import dataclasses
import math

import numpy as np
import pytest

from tests.eval.test_sweep_journal import ANSWER
from vtokens.eval.cells import cells
from vtokens.eval.metrics import Interval, holm, mcnemar, wilson
from vtokens.eval.score import Graded, estimate, number, plain
from vtokens.eval.tables import results, summary, unknown_values

MANIFEST = {"versions": {"torch": "2"}, "hardware": {"cpu": "x"}, "budget": "b"}


def mean(values):
    return sum(values) / len(values)


def graded(cell, right, first_token=0.3, docs=None, **metrics):
    """A task of which some answers are right; every answer takes as long to its first token."""
    raw = {"exact": [float(value) for value in right], **metrics}
    docs = list(range(len(right))) if docs is None else docs
    answers = [dataclasses.replace(ANSWER, doc=doc, encode=0.1, prefill=first_token - 0.1) for doc in docs]
    return Graded(
        cell,
        "vqa",
        docs,
        answers,
        ["?"] * len(docs),
        ["!"] * len(docs),
        raw,
        {name: mean(values) for name, values in raw.items()},
        dict.fromkeys(raw, mean),
        "exact",
    )


def test_shares_get_wilsons_interval_and_other_means_a_bootstrap():
    assert estimate([1.0, 0.0, True, 1], 0.75, mean) == wilson(3, 4)
    found = estimate([1.0, 2.0, 3.0, 6.0], 3.0, mean)
    assert found.value == 3.0
    assert 1.0 < found.low < 3.0 < found.high < 6.0
    assert estimate([{"score": 1}, {"score": 0}], 0.5, mean) == wilson(1, 2)


def test_records_are_resampled_through_their_own_aggregation():
    records = [["a", 1]] * 30 + [["b", 0]] * 10

    def share(rows):
        return 100 * sum(right for _, right in rows) / len(rows)

    found = estimate(records, 75.0, share)
    exact = [
        100 * np.quantile(np.random.default_rng(1).binomial(40, 0.75, 10**5) / 40, tail) for tail in (0.025, 0.975)
    ]
    assert (found.low, found.high) == pytest.approx(exact, abs=4)
    assert found.n == 40


def test_an_aggregation_that_knows_its_interval_is_asked():
    class Knowing:
        def interval(self, records):
            return Interval(0.5, 0.4, 0.6, len(records))

    assert estimate([None, None], 0.5, Knowing()) == Interval(0.5, 0.4, 0.6, 2)


def test_an_aggregation_that_refuses_a_resample_leaves_the_figure_without_bounds():
    def both(rows):
        if len({*rows}) < 2:
            raise ZeroDivisionError
        return 7.0

    found = estimate(["a", "b"], 7.0, both)
    assert found.value == 7.0
    assert math.isnan(found.low)


@pytest.mark.parametrize("value", [math.nan, math.inf, None, "text", {"recall": 1.0}])
def test_what_is_no_number_has_no_interval(value):
    assert estimate([1.0, 0.0], value, mean) is None


def test_numbers_and_plain_values():
    assert [number(v) for v in (1, True, np.float32(0.5), {"score": 2}, {"other": 2}, "1", None)] == [
        1.0, 1.0, 0.5, 2.0, None, None, None,
    ]  # fmt: skip
    assert plain({1: (np.int64(3), np.array([1.5])), "x": math.nan, "y": [object]}) == {
        "1": [3, [1.5]], "x": None, "y": [str(object)],
    }  # fmt: skip


def test_a_speed_up_is_against_none_of_the_same_seed_and_task():
    none, fast = cells(["none", "cls"], [0.5], seeds=2)[:2], cells(["none", "cls"], [0.5], seeds=2)[2:]
    grades = [graded(none[0], [1, 0], 0.4), graded(none[1], [1, 0], 0.2)]
    grades += [graded(fast[0], [1, 0], 0.9), graded(fast[1], [1, 0], 0.3)]
    found = {row["cell"]: row["speedup"] for row in results(grades, MANIFEST)}
    assert found == pytest.approx({"none#s0": 1, "cls@0.5#s0": 2, "none#s1": 1, "cls@0.5#s1": 3})
    alone = results([graded(none[1], [1, 0])], MANIFEST)
    assert alone[0]["speedup"] is None
    assert alone[0]["versions"] == {"torch": "2"}


def test_a_slow_batch_does_not_sway_the_speed_up_but_the_mean():
    none, fast = cells(["none", "cls"], [0.5])
    slow = graded(none, [1] * 5, 0.4)
    slow = dataclasses.replace(slow, answers=[dataclasses.replace(slow.answers[0], prefill=100.0), *slow.answers[1:]])
    rows = results([slow, graded(fast, [1] * 5, 0.2)], MANIFEST)
    assert rows[1]["speedup"] == pytest.approx(2)
    assert rows[0]["prefill"] == pytest.approx((100 + 4 * 0.3) / 5)


def two_seeds(*, hashes):
    """`none` right on 12 of 20 and `cls` on 5 of them, under each of two seeds."""
    grades = []
    for cell in cells(["none", "cls"], [0.5], seeds=2):
        right = 12 if cell.name == "none" else 5
        grades.append(graded(cell, [doc < right for doc in range(20)]))
    return summary(grades, results(grades, MANIFEST), {"vqa": {"hash": hashes}})


def test_seeds_that_draw_other_documents_are_pooled():
    none, pruned = two_seeds(hashes={"0": "a", "1": "b"})
    expected = wilson(24, 40)
    assert (none["value"], none["low"], none["high"], none["n"], none["seeds"]) == (*dataclasses.astuple(expected), 2)
    assert none["p_value"] is None
    assert pruned["p_value"] == mcnemar([True] * 24 + [False] * 16, [True] * 10 + [False] * 14 + [False] * 16).p_value


def test_seeds_that_ask_the_same_documents_do_not_count_twice():
    none, pruned = two_seeds(hashes={"0": "a", "1": "a"})
    assert none["value"] == 0.6
    assert none["n"] == 40
    once, pooled = wilson(12, 20), wilson(24, 40)
    assert none["high"] - none["low"] > 1.2 * (pooled.high - pooled.low)
    assert none["high"] - none["low"] == pytest.approx(once.high - once.low, rel=0.15)
    assert pruned["p_value"] == mcnemar([True] * 12 + [False] * 8, [True] * 5 + [False] * 15).p_value


def test_p_values_are_holms_over_the_table_and_only_for_what_judges():
    none, *others = cells(["none", "cls", "fastv", "random"], [0.5])
    rights = ([1] * 20, [1] * 10 + [0] * 10, [1] * 15 + [0] * 5, [1] * 20)
    grades = [graded(cell, right, length=[3.0] * 20) for cell, right in zip([none, *others], rights, strict=True)]
    rows = summary(grades, figures := results(grades, MANIFEST), {"vqa": {"hash": {"0": "a"}}})
    for row, figure in zip(rows, figures, strict=True):
        assert all(row[key] == figure[key] for key in ("name", "metric", "value", "low", "high", "n"))
    assert all(row["p_value"] is None for row in rows if row["metric"] == "length")
    raw = [mcnemar([True] * 20, [bool(v) for v in right]).p_value for right in rights[1:]]
    assert [row["p_value"] for row in rows if row["metric"] == "exact"] == [None, *holm(raw)]


def test_a_metric_without_a_value_is_named():
    rows = results([graded(cells(["none"])[0], [1, 0], odd=[math.nan, 1.0])], MANIFEST)
    assert unknown_values(rows) == ["none#s0 vqa odd"]
    assert [row["n"] for row in rows] == [2, 2]
