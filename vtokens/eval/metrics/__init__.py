"""Metrics with their uncertainty: intervals, paired tests, POPE and CHAIR. Plain numbers in, plain numbers out."""

from __future__ import annotations

from .chair import Chair, chair
from .pope import Pope, pope, yes_no
from .stats import Interval, Paired, bootstrap, holm, mcnemar, ratio, wilson

__all__ = [
    "Chair",
    "Interval",
    "Paired",
    "Pope",
    "bootstrap",
    "chair",
    "holm",
    "mcnemar",
    "pope",
    "ratio",
    "wilson",
    "yes_no",
]
