"""What in a response the image does not support: mentions, signals, calibrated probabilities, and actions on them.

hf = vtokens.HallucinationFilter.from_pretrained("scenes-llava")
report = hf.check(image, "Describe the image.", "red circle, blue square")
outcome = hf.generate(image, "Describe the image.", action="redact", risk=0.1)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from vtokens._extras import needs

# name -> the module that defines it; imported on first use: command lines must not wait for torch.
_EXPORTS = {
    "ACTIONS": "actions",
    "Calibrator": "calibrator",
    "Certificate": "risk",
    "Event": "stream",
    "HallucinationFilter": "filter",
    "Mention": "mentions",
    "Outcome": "actions",
    "Record": "records",
    "Report": "report",
    "Risk": "risk",
    "calibrate_policy": "policy",
}
__all__ = sorted(_EXPORTS)

if TYPE_CHECKING:
    from vtokens.filter.actions import ACTIONS as ACTIONS
    from vtokens.filter.actions import Outcome as Outcome
    from vtokens.filter.calibrator import Calibrator as Calibrator
    from vtokens.filter.filter import HallucinationFilter as HallucinationFilter
    from vtokens.filter.mentions import Mention as Mention
    from vtokens.filter.policy import calibrate_policy as calibrate_policy
    from vtokens.filter.records import Record as Record
    from vtokens.filter.report import Report as Report
    from vtokens.filter.risk import Certificate as Certificate
    from vtokens.filter.risk import Risk as Risk
    from vtokens.filter.stream import Event as Event


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'vtokens.filter' has no attribute {name!r}")
    with needs("filter", "the hallucination filter"):
        module = importlib.import_module(f"vtokens.filter.{_EXPORTS[name]}")
    return getattr(module, name)


def __dir__() -> list[str]:
    return __all__
