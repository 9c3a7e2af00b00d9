"""Whether what a block printed is what the page shows."""

from __future__ import annotations

import re
from decimal import Decimal

_TIME = re.compile(r"\d[\d.,]*(?= ?(?:ms|s|seconds)\b)")
_NUMBER = re.compile(r"(?<![\w.])-?\d+\.\d+")


def differs(shown: str, printed: str) -> str:
    """What is not alike; "" if all is.

    Lines count without spaces at their ends. Durations (a number before ms, s or seconds) may be any; other numbers
    with a decimal point may be one off in the last digit, as rounding goes on other processors; a line of three dots
    stands for any lines, and three dots at the end of a line for the rest of it. All else has to be the same.
    """
    expected, found = ([line.rstrip() for line in text.strip().splitlines()] for text in (shown, printed))
    pattern = r"\n".join("(?:.*\n)*?.*" if line.strip() == "..." else _pattern(line) for line in expected)
    match = re.fullmatch(pattern, "\n".join(map(_timeless, found)))
    if match is None:
        return f"shown:\n{shown}\nprinted:\n{printed}"
    wanted = [number for line in expected if line.strip() != "..." for number in _NUMBER.findall(_timeless(line))]
    for one, other in zip(wanted, match.groups(), strict=True):
        step = Decimal(1).scaleb(Decimal(one).as_tuple().exponent)  # type: ignore[arg-type]
        if abs(Decimal(one) - Decimal(other)) > step:
            return f"shown {one}, printed {other}"
    return ""


def _timeless(line: str) -> str:
    return _TIME.sub("#", line)


def _pattern(line: str) -> str:
    """A pattern for a line, its numbers with a decimal point in groups."""
    line, rest = (line.removesuffix("..."), ".*") if line.endswith("...") else (line, "")
    line = _timeless(line)
    texts, numbers = _NUMBER.split(line), len(_NUMBER.findall(line))
    return "".join(re.escape(text) + (r"(-?\d+\.\d+)" if at < numbers else "") for at, text in enumerate(texts)) + rest
