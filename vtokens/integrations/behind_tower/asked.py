"""What is asked of an engine, as it comes over the wire: `{"strategy": "divprune", "keep": 0.25}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vtokens.core.errors import shorten, unknown
from vtokens.strategies import format_spec, parse
from vtokens.strategies.grammar import LONGEST
from vtokens.strategies.spec import open_keeps

FIELDS = ("keep", "strategy")
_EXAMPLE = '{"strategy": "divprune", "keep": 0.25}'


def asked(own: Any, default: Any = None) -> str:
    """The strategies that a request asks for, as text; "none" if it asks for none.

    Args:
        own: a mapping with a strategy as text, and a `keep`, share or count per picture, for the one that was given
            none; either may be left out. A text is a strategy. None is nothing of all that.
        default: the same of the server; what the request leaves out, it says. Its `keep` is for strategies that name
            none themselves.

    Raises:
        TypeError: something else.
        ValueError: unknown fields, strategies, or settings.
    """
    mine, theirs = _fields(own), _fields(default)
    strategy = mine.get("strategy", theirs.get("strategy", "none"))
    if not isinstance(strategy, str):
        raise TypeError(f"vtokens: the strategy {shorten(strategy)} is no text: write {_EXAMPLE}")
    if len(strategy) > LONGEST:
        raise ValueError(f"vtokens: a strategy of {len(strategy):,} characters: {LONGEST:,} are allowed")
    keep = mine.get("keep")
    if strategy.strip() == "none":
        if keep is not None and "strategy" not in mine:
            raise ValueError(f"vtokens: keep={shorten(keep)} needs a strategy, and the server has none: {_EXAMPLE}")
        return "none"
    if keep is None and len(open_keeps(strategy)) == 1:
        keep = theirs.get("keep")
    return format_spec(parse(strategy, keep))


def _fields(given: Any) -> Mapping[str, Any]:
    if given is None:
        return {}
    if isinstance(given, str):
        return {"strategy": given}
    if not isinstance(given, Mapping):
        raise TypeError(f"vtokens={shorten(given)} is not allowed: write {_EXAMPLE}")
    for name in given:
        if name not in FIELDS:
            raise unknown("field of vtokens", name, FIELDS)
    return {name: value for name, value in given.items() if value is not None}
