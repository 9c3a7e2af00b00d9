"""Signals: what in a trace speaks for a mention being hallucinated. One file each."""

from vtokens.filter.signals.base import Signal, Spanned, Spans
from vtokens.filter.signals.registry import (
    SETS,
    features,
    features_of,
    get_signals,
    list_signals,
    parts_for,
    register,
)

__all__ = [
    "SETS",
    "Signal",
    "Spanned",
    "Spans",
    "features",
    "features_of",
    "get_signals",
    "list_signals",
    "parts_for",
    "register",
]
