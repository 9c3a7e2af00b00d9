"""Which names are offered for a wrong one: those a typo or two away, and never an unrelated word."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import vtokens
from vtokens.cli import main, parser
from vtokens.core.near import allowed_typos, near_names, typos
from vtokens.strategies.spec import field_names

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
UNRELATED = ("longest", "banana", "yesterday", "umbrella", "xyzzy", "qqqqqqqq", "hippopotamus", "zebra", "q", "")


@cache
def kinds() -> dict[str, list[str]]:
    """The sets of names that users choose from, as the library has them."""
    commands = parser()
    options = {name for one in commands.commands.values() for name in one._option_string_actions}  # type: ignore[attr-defined]
    return {
        "strategies": vtokens.strategies(),
        "fields": sorted(set().union(*map(field_names, vtokens.strategies()))),
        "families": vtokens.models(),
        "commands": list(commands.commands),
        "options": sorted(name for name in options if name.startswith("--")),
    }


def distance(one: str, other: str) -> int:
    """Optimal string alignment by its recursive definition."""

    @cache
    def of(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        steps = [of(i - 1, j) + 1, of(i, j - 1) + 1, of(i - 1, j - 1) + (one[i - 1] != other[j - 1])]
        if min(i, j) > 1 and one[i - 2 : i] == other[j - 2 : j][::-1]:
            steps.append(of(i - 2, j - 2) + 1)
        return min(steps)

    return of(len(one), len(other))


def plain(name: str) -> str:
    return re.sub(r"[-_. ]", "", name.lower())


@st.composite
def misspelt(draw: Any) -> tuple[str, str, list[str]]:
    """A wrong name, the right one that it stands for, and all that are right."""
    every = kinds()[draw(st.sampled_from(sorted(kinds())))]
    right = draw(st.sampled_from(every).filter(lambda name: len(plain(name)) > 2))
    names = [right, *draw(st.lists(st.sampled_from(every), max_size=8))]
    found = right.lstrip("-")
    start = right[: len(right) - len(found)]
    first = draw(st.integers(0, len(found) - 1))
    # Two typos side by side can look like three.
    two = len(plain(right)) > 6 and first > 2 and draw(st.booleans())
    for place in [first, draw(st.integers(0, first - 3))] if two else [first]:
        letter, kind = (
            draw(st.sampled_from(LETTERS)),
            draw(st.sampled_from(["left out", "added", "changed", "swapped"])),
        )
        if kind == "left out" and len(plain(found)) > 2:
            found = found[:place] + found[place + 1 :]
        elif kind == "added":
            found = found[:place] + letter + found[place:]
        elif kind == "changed":
            found = found[:place] + letter + found[place + 1 :]
        else:
            found = found[:place] + found[place : place + 2][::-1] + found[place + 2 :]
    return start + found, right, names


@given(misspelt())
def test_a_typo_or_two_are_understood(case: tuple[str, str, list[str]]) -> None:
    wrong, right, names = case
    assert near_names(wrong, [right]) == [right]
    (offered,) = near_names(wrong, names)
    assert distance(plain(wrong), plain(offered)) <= distance(plain(wrong), plain(right))


@given(st.data())
def test_what_is_offered_is_near(data: Any) -> None:
    """By the definition: few typos, one the beginning of the other, or whole words of it; and all such are offered."""
    every = sorted({name for names in kinds().values() for name in names})
    names = data.draw(st.lists(st.sampled_from(every), max_size=6, unique=True))
    piece = st.sampled_from(every).flatmap(lambda name: st.integers(0, len(name)).map(lambda at: name[:at] or name))
    drawn = data.draw(st.text(LETTERS + "-_.", max_size=14) | piece | st.sampled_from(every).map(lambda n: n[3:]))
    given, near = plain(drawn), set()
    for name in names:
        known = plain(name)
        short, long = sorted((given, known), key=len)
        begins = len(short) > 2 and long.startswith(short)
        longer = name if long == known else drawn
        ends = begins and any(plain(longer[:at]) == short for at, one in enumerate(longer) if one in "-_. ")
        within = f"_{'_'.join(filter(None, re.split('[-_. ]', drawn.lower())))}_"
        words = len(given) > 3 and within in f"_{'_'.join(filter(None, re.split('[-_. ]', name.lower())))}_"
        if (
            distance(given, known) <= allowed_typos(len(long))
            or ends
            or words
            or (begins and 3 * len(short) >= len(long))
        ):
            near.add(name)
    assert set(near_names(drawn, names, len(names))) == near


@given(st.text("abcd", max_size=12), st.text("abcd", max_size=12), st.integers(0, 4))
def test_typos_are_counted_by_the_definition(one: str, other: str, most: int) -> None:
    assert typos(one, other, most) == typos(other, one, most) == min(distance(one, other), most + 1)


@pytest.mark.parametrize("word", UNRELATED)
def test_an_unrelated_word_is_near_nothing(word: str) -> None:
    for names in kinds().values():
        assert near_names(word, names) == []


@pytest.mark.parametrize(
    ("wrong", "names", "right"),
    [
        ("Vision-Zip", ("visionzip", "visionselector"), ["visionzip"]),
        ("temp", ("temperature", "top_p"), ["temperature"]),
        ("lowest", ("low", "mid", "high"), ["low"]),
        ("tokens", ("max_new_tokens", "max_tokens", "seed"), ["max_tokens", "max_new_tokens"]),
        ("float", ("float16", "float32", "bfloat16"), ["float32", "float16"]),
        ("cls_pooling", ("cls", "class"), ["cls"]),
        ("to", ("tokens", "torch"), []),
    ],
)
def test_examples(wrong: str, names: tuple[str, ...], right: list[str]) -> None:
    assert near_names(wrong, names, 2) == right


def said(capsys: Any, *call: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(call)
    assert stop.value.code == 2
    return str(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("near", "far", "right"),
    [
        (("--vresion",), ("--longest",), "--version"),
        (("srve",), ("longest",), "serve"),
        (("run", "a.png", "q", "--stratgy", "cls"), ("run", "a.png", "q", "--longest"), "--strategy"),
        (("run", "a.png", "q", "-keep", "1"), ("run", "a.png", "q", "--zebra=1"), "--keep"),
        (("eval", "--taks", "pope"), ("eval", "--longest", "pope"), "--tasks"),
        (("bench", "kernel"), ("bench", "longest"), "kernels"),
        (("bench", "kernels", "--clock", "wal"), ("bench", "kernels", "--clock", "longest"), "wall"),
        (("calibrate", "vra"), ("calibrate", "longest"), "var"),
        (("filter", "fit", "--kimd", "any"), ("filter", "fit", "--longest"), "--kind"),
        (("strategies", "contrsat"), ("strategies", "longest"), "contrast"),
        (("strategies", "--family", "qwen3vl"), ("strategies", "--family", "longest"), "qwen3_vl"),
        (("cite", "visonzip"), ("cite", "longest"), "visionzip"),
    ],
)
def test_the_commands_offer_near_names_alone(
    capsys: Any, near: tuple[str, ...], far: tuple[str, ...], right: str
) -> None:
    message = said(capsys, *near)
    assert message.count("\n") == 1
    assert f"Did you mean {right!r}?" in message, message
    message = said(capsys, *far)
    assert "Did you mean" not in message, message
    assert far[-1].partition("=")[0] in message or far[-2] in message


def test_values_of_options_are_never_taken_for_options() -> None:
    """Behind "--", and with a space in them."""
    for call in (["--", "a.png", "--zebra"], ["a.png", "--what is it?"]):
        assert parser().parse_args(["run", *call]).question == call[-1]
