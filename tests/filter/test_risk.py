"""Risks: what can be guaranteed, and what is refused."""

import math

import pytest

from vtokens.filter.guarantees.conformal import threshold
from vtokens.filter.guarantees.risk import Certificate, Risk


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "ratios"}, "unknown kind of risk 'ratios'. Did you mean 'ratio'"),
        ({"alpha": 0.0}, "alpha must lie between 0 and 1, got 0.0"),
        ({"alpha": math.nan}, "alpha must lie between 0 and 1, got nan"),
        ({"delta": 1.0}, "delta must lie between 0 and 1, got 1.0"),
        ({"alpha": None}, "needs alpha"),
        ({"kind": "ratio", "delta": None}, "a risk of kind 'ratio' needs alpha and delta"),
    ],
)
def test_what_is_no_risk(fields, message):
    with pytest.raises(ValueError, match=message):
        Risk(**fields)


def test_a_risk_in_words():
    assert str(Risk("any", 0.05, 0.2)).endswith("that the image does not support is at most 0.05, with probability 0.8")
    assert str(Risk("share", 0.1, None)).endswith("is at most 0.1, on average over calibrations")


def test_keeps_refuses_nan():
    found = threshold([[0.1], [0.2]] * 30, [[False], [False]] * 30, Risk())
    with pytest.raises(ValueError, match="1 of 2 scores are NaN"):
        found.keeps([0.1, math.nan])


def test_from_dict_refuses_other_fields():
    content = threshold([[0.1]] * 50, [[False]] * 50, Risk()).to_dict()
    with pytest.raises(ValueError, match="a certificate has the fields"):
        Certificate.from_dict({**content, "more": 1})
    with pytest.raises(ValueError, match="a certificate has the fields"):
        Certificate.from_dict({k: v for k, v in content.items() if k != "n"})
