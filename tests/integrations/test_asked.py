"""What comes over the wire as text, and what the server says where a request says nothing."""

from __future__ import annotations

from typing import Any

import pytest

from vtokens.integrations.behind_tower.asked import asked


@pytest.mark.parametrize(
    ("own", "default", "means"),
    [
        (None, None, "none"),
        (None, {}, "none"),
        ({"strategy": "divprune", "keep": 0.25}, None, "divprune(keep=0.25)"),
        ("cls(keep=9)", {"strategy": "divprune"}, "cls(keep=9)"),
        ({"keep": 0.5}, {"strategy": "divprune", "keep": 0.25}, "divprune(keep=0.5)"),
        ({"strategy": "scope"}, {"strategy": "divprune", "keep": 0.3}, "scope(keep=0.3)"),
        ({"strategy": "scope(keep=0.7)"}, {"strategy": "divprune", "keep": 0.3}, "scope(keep=0.7)"),
        ({"strategy": "none"}, {"strategy": "divprune", "keep": 0.3}, "none"),
        ({"strategy": None, "keep": None}, {"strategy": "divprune", "keep": 0.3}, "divprune(keep=0.3)"),
    ],
)
def test_asked(own: Any, default: Any, means: str) -> None:
    assert asked(own, default) == means


@pytest.mark.parametrize(
    ("own", "error", "match"),
    [
        ({"strategi": "cls"}, ValueError, "Did you mean 'strategy'.*keep, strategy"),
        ({"strategy": "clss"}, ValueError, "Did you mean 'cls'"),
        ({"strategy": "cls", "keep": 0}, ValueError, "keep=0 keeps nothing"),
        ({"strategy": "cls", "keep": "much"}, TypeError, "keep='much'"),
        ({"strategy": "cls(keep=0.5)", "keep": 0.2}, ValueError, "no strategy to take it"),
        ({"strategy": ["cls"]}, TypeError, "is no text"),
        ({"strategy": "a" * 20_000}, ValueError, "20,000 characters"),
        ({"keep": 0.5}, ValueError, "needs a strategy, and the server has none"),
        (["cls"], TypeError, "is not allowed"),
        (0.5, TypeError, "is not allowed"),
    ],
)
def test_refused(own: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        asked(own)
