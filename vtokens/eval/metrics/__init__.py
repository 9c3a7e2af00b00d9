"""Metrics with their uncertainty: intervals, paired tests, POPE, CHAIR, detection. Plain numbers in and out."""

from __future__ import annotations

from .chair import Chair, chair
from .detection import Detection, detection
from .intervals import Interval, bootstrap, ratio, wilson
from .paired import Paired, difference, holm, mcnemar
from .pope import Pope, pope, yes_no

__all__ = [
    "Chair",
    "Detection",
    "Interval",
    "Paired",
    "Pope",
    "bootstrap",
    "chair",
    "detection",
    "difference",
    "holm",
    "mcnemar",
    "pope",
    "ratio",
    "wilson",
    "yes_no",
]
