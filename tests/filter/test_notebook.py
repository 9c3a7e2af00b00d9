"""How a checked response shows in a notebook: what is flagged is marked, and a model's markup is text."""

from __future__ import annotations

import re
from html import unescape

from tests.filter.test_terminal import report


def text_of(html: str) -> str:
    return unescape(re.sub("<[^>]*>", "", html))


def test_flagged_mentions_are_marked_and_all_are_listed() -> None:
    """The response stands there once and whole, with a mark around what is flagged."""
    html = report("red circle, blue square", {1})._repr_html_()
    response = re.search("<p[^>]*>(.*?)</p>", html)
    assert response is not None
    assert text_of(response[1]) == "red circle, blue square"
    assert re.findall("<span[^>]*>(.*?)</span>", response[1]) == ["blue square"]
    rows = [re.findall("<td[^>]*>(.*?)</td>", row) for row in re.findall("<tr>(.*?)</tr>", html)][1:]
    assert [(row[0], row[2], row[3]) for row in rows] == [
        ("red circle", "0.050", ""),
        ("blue square", "0.930", "flagged"),
    ]


def test_markup_and_control_characters_of_a_response_are_text() -> None:
    """A response cannot bring elements of its own, nor half a character that no notebook could store."""
    html = report("<script>alert(1)</script> a red circle \ud800\x1b", {0})._repr_html_()
    assert "<script" not in html
    assert "<script>alert(1)</script>" in text_of(html)
    assert "\x1b" not in html
    html.encode("utf-8")


def test_uncalibrated_scores_are_called_so_and_nothing_is_said_plainly() -> None:
    """The head says what the figures are; a response without mentions says so."""
    assert "score (uncalibrated)" in report("red circle", set(), calibrated=False)._repr_html_()
    assert "names nothing that could be checked" in report("", set())._repr_html_()


def test_the_repr_of_a_report_is_one_line() -> None:
    """However long the response is."""
    made = report("red circle, blue square. " * 50, {1})
    assert len(repr(made)) < 200
    assert "\n" not in repr(made)
    assert "100 mention(s), 1 flagged" in repr(made)
