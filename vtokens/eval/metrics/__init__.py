"""Metrics with their uncertainty: intervals, paired tests, POPE and CHAIR. Plain numbers in, plain numbers out."""

from __future__ import annotations

from .chair import Chair, chair
from .intervals import Interval, bootstrap, ratio, wilson
from .paired import Paired, difference, holm, mcnemar
from .pope import Pope, pope, yes_no

__all__ = [
    "Chair",
    "Interval",
    "Paired",
    "Pope",
    "bootstrap",
    "chair",
    "difference",
    "holm",
    "mcnemar",
    "pope",
    "ratio",
    "wilson",
    "yes_no",
]
