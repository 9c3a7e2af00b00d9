"""Figures and names as text; the filters of the templates."""

from __future__ import annotations

import math

from markupsafe import Markup, escape

from .results import StrategyAtKeep


def figure(value: float, digits: int = 1, unit: float = 1) -> str:
    """A figure with `digits` decimals; a dash where there is none."""
    return f"{unit * value:.{digits}f}" if math.isfinite(value) else "–"


def share(value: float, percent: bool) -> str:
    """A metric's value: in percent if it is a share, otherwise with three significant decimals."""
    return figure(value, 1, 100) if percent else figure(value, 3 if abs(value) < 10 else 1)


def signed(value: float, percent: bool | None) -> str:
    """A difference with its sign: a count (`percent` None), in points of a percentage, or as it is."""
    text = f"{value:+d}" if percent is None else f"{100 * value:+.1f}" if percent else f"{value:+.3g}"
    return text.replace("-", "−") if float(text) else text[1:]


def p_text(value: float) -> str:
    """A p-value."""
    return "<0.001" if value < 0.001 else figure(value, 3)


def breaks(text: str) -> Markup:
    """The text with places where a long spec may break."""
    safe = str(escape(text))
    for sign in ("+", ", ", "(", "_"):
        safe = safe.replace(sign, f"{sign}<wbr>")
    return Markup(safe)


def keep_text(setting: StrategyAtKeep) -> str:
    """A keep for people; 1 is a count, and 1.0 a share."""
    return "–" if setting.keep is None else f"{setting.keep}"


def keep_key(setting: StrategyAtKeep) -> str:
    """A keep for the filter of the page."""
    return "no keep" if setting.keep is None else repr(setting.keep)
