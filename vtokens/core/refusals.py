"""Which families refuse a strategy: asked where strategies are listed, and known to adapters, which stand above."""

from __future__ import annotations

from collections.abc import Callable

Refusal = Callable[[str, str], str]
"""From the names of a strategy and of a family to why models of the family refuse it, whatever its settings are."""
_known: list[Refusal] = []


def known_by(refusal: Refusal) -> None:
    """Say who is asked; `vtokens` itself does, which stands above all."""
    _known[:] = [refusal]


def refusal(name: str, family: str) -> str:
    """Why models of a family refuse a strategy whatever its settings are; "" if they do not.

    Raises:
        ValueError: no such strategy or family; names the nearest.
    """
    [ask] = _known
    return ask(name, family)
