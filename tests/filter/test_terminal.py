"""Reports on a terminal: what is flagged can be seen with and without colours, and text cannot steer the terminal."""

import io
import re

import pytest
from rich.console import Console

from vtokens.filter.judged import Judged
from vtokens.filter.mentions import get_extractor
from vtokens.filter.report import ResponseReport
from vtokens.filter.terminal import marked, show, summary

RED_UNDERLINED = "\x1b[1;4;31m"


def report(text, flagged, calibrated=True, prompt=""):
    """A report in which the mentions with these numbers are flagged."""
    extractor = get_extractor("scenes")
    judged = [
        Judged(mention, 0.93 if i in flagged else 0.05, 0.0, {}, i in flagged)
        for i, mention in enumerate(extractor(text, prompt))
    ]
    return ResponseReport(prompt, text, tuple(judged), tuple(extractor.sentences(text)), calibrated, 0.5)


def shown(made, **options):
    console = Console(file=io.StringIO(), width=100, **options)
    show(made, console)
    return console.file.getvalue()


def test_colours_on_a_terminal():
    out = shown(report("red circle, blue square", {1}), force_terminal=True, color_system="standard", no_color=False)
    assert f"red circle, {RED_UNDERLINED}blue square\x1b[0m\x1b[31m (0.93)\x1b[0m" in out
    assert "1 of 2 mentions flagged: probability above 0.5" in out


def test_brackets_without_a_terminal_or_with_no_color(monkeypatch):
    out = shown(report("red circle, blue square", {1}))
    assert out.startswith("red circle, [blue square] (0.93)\n")
    assert "\x1b" not in out
    monkeypatch.setenv("NO_COLOR", "1")
    out = shown(report("red circle, blue square", {1}), force_terminal=True, color_system="standard")
    assert "[blue square]" in re.sub(r"\x1b\[[\d;]*m", "", out)
    assert not re.search(r"\x1b\[[\d;]*3\dm", out)


@pytest.mark.parametrize(
    ("text", "flagged", "plain"),
    [
        ("red circle", {0}, "[red circle] (0.93)"),
        ("red circle, blue ring", {0, 1}, "[red circle] (0.93), [blue ring] (0.93)"),
        ("two circles", {0, 1}, "[two] (0.93) [circles] (0.93)"),
        ("👍 red circle 犬", {0}, "👍 [red circle] (0.93) 犬"),
        ("no mention [bold]here[/bold]", set(), "no mention [bold]here[/bold]"),
        ("", set(), ""),
    ],
)
def test_marks_stand_where_the_mentions_do(text, flagged, plain):
    assert marked(report(text, flagged), plain=True).plain == plain
    assert marked(report(text, flagged)).plain == plain.translate({91: None, 93: None}).replace(
        "boldhere/bold", "[bold]here[/bold]"
    )


def test_every_mention_has_a_line_with_what_it_claims():
    lines = shown(report("no", {0}, prompt="Is there a red circle in the image?")).splitlines()
    assert lines[0] == "[no] (0.93)"
    assert re.fullmatch(r"! +0\.93 +no +object +not: red circle *", lines[2])
    assert "claims" not in shown(report("red circle, blue ring", {1}))


def test_the_summary_says_what_the_numbers_are_worth():
    assert summary(report("red circle", set())) == "0 of 1 mention flagged: probability above 0.5"
    assert "no probabilities" in summary(report("red circle", {0}, calibrated=False))
    assert summary(report("hello", set())) == "nothing is mentioned that could be checked, so nothing was judged"


def test_control_characters_do_not_reach_the_terminal():
    evil = "red circle\x1b[2J\x07 \u202eblue\r\n\tsquare"
    assert marked(report(evil, {0}), plain=True).plain == "[red circle] (0.93)\\x1b[2J\\x07 \\u202eblue\\x0d\n\tsquare"
    out = shown(report(evil, {0}), force_terminal=True, color_system="standard")
    assert "\x1b[2J" not in out
    assert "\u202e" not in out
