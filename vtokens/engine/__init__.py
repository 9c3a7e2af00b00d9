"""The engine: the only code that touches a live model."""

from vtokens.core.kept import KeptPicture, SampleReport
from vtokens.engine.attach import Handle, attach, attachment, detach
from vtokens.engine.report import Contribution, Report

__all__ = ["Contribution", "Handle", "KeptPicture", "Report", "SampleReport", "attach", "attachment", "detach"]
