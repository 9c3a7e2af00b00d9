"""Which threshold is meant, and how tokens were chosen."""

from __future__ import annotations

import pytest

from vtokens.filter.actions.decoding import decoding, limit
from vtokens.filter.guarantees.limits import resolve
from vtokens.filter.guarantees.setting import CalibrationSetting

NOW = CalibrationSetting("llava-0", "none")


def test_flagging_needs_no_threshold():
    assert resolve(None, None, NOW, "flag", None, None).value == 0.5
    assert resolve(None, None, NOW, "redact", None, 0).value == 0.0


@pytest.mark.parametrize("threshold", [-0.1, 1.5, True, "0.5", float("nan")])
def test_thresholds_are_probabilities(threshold):
    with pytest.raises(ValueError, match="threshold="):
        resolve(None, None, NOW, "flag", None, threshold)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "greedy"),
        ({"num_beams": 4}, "beams(4)"),
        ({"do_sample": True, "temperature": 0.7, "top_k": None, "top_p": None}, "sample(temperature=0.7)"),
        ({"do_sample": True, "temperature": None, "top_k": None, "top_p": None}, "sample"),
        ({"do_sample": True, "num_beams": 2}, "beams(2, sample)"),
    ],
)
def test_decoding_in_a_word(embedded, options, name):
    assert decoding(embedded[0], options) == name


def test_the_longest_response(embedded):
    assert limit(embedded[0], {"max_new_tokens": 7}, 100) == 7
    assert limit(embedded[0], {"max_length": 107}, 100) == 7
    assert limit(embedded[0], {"max_length": 50}, 100) == 1
