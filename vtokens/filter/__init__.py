"""What in a response the image does not support: mentions, signals, calibrated probabilities, and actions on them.

    hf = vtokens.HallucinationFilter.from_pretrained("scenes-llava")
    report = hf.check(image, "Describe the image.", "red circle, blue square")
    outcome = hf.generate(image, "Describe the image.", action="redact", risk=0.1)

What it needs beside the core is the extra `filter`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from vtokens.core.extras import needs
from vtokens.core.moved import renamed

# name -> the module that defines it; imported on first use: command lines must not wait for torch.
_EXPORTS = {
    "ACTIONS": "actions.action",
    "Calibrator": "calibrators.calibrator",
    "Certificate": "guarantees.risk",
    "Event": "actions.stream",
    "Gate": "gate",
    "HallucinationFilter": "filter",
    "Mention": "mentions",
    "Outcome": "actions.action",
    "LabelledResponse": "calibrators.records",
    "ResponseReport": "report",
    "Risk": "guarantees.risk",
    "calibrate_policy": "guarantees.policy",
}
__all__ = sorted(_EXPORTS)

if TYPE_CHECKING:
    from vtokens.filter.actions.action import ACTIONS as ACTIONS
    from vtokens.filter.actions.action import Outcome as Outcome
    from vtokens.filter.actions.stream import Event as Event
    from vtokens.filter.calibrators.calibrator import Calibrator as Calibrator
    from vtokens.filter.calibrators.records import LabelledResponse as LabelledResponse
    from vtokens.filter.filter import HallucinationFilter as HallucinationFilter
    from vtokens.filter.gate import Gate as Gate
    from vtokens.filter.guarantees.policy import calibrate_policy as calibrate_policy
    from vtokens.filter.guarantees.risk import Certificate as Certificate
    from vtokens.filter.guarantees.risk import Risk as Risk
    from vtokens.filter.mentions import Mention as Mention
    from vtokens.filter.report import ResponseReport as ResponseReport


if not TYPE_CHECKING:  # a checker is to miss names that are not there

    def __getattr__(name: str) -> Any:
        if name not in _EXPORTS:
            return renamed(__name__, name)
        with needs("filter", "the hallucination filter"):
            module = importlib.import_module(f"vtokens.filter.{_EXPORTS[name]}")
        return getattr(module, name)


def __dir__() -> list[str]:
    return __all__
