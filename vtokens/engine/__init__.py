"""The engine: the only code that touches a live model.

Throughout, `lane` is the sequence at work, `index` a decoder layer, `adapter` the model's, `plan` which strategy acts
where, and `kwargs` what the language model is about to get. Shapes are B rows of the batch, N positions fed, W columns
that a layer sees of them, K keys, H heads of width D, C channels of rotary positions, G groups of M visual tokens.
"""

from vtokens.core.kept import KeptPicture, SampleReport
from vtokens.engine.attach import Handle, attach, attachment, detach
from vtokens.engine.report import Contribution, Report

__all__ = ["Contribution", "Handle", "KeptPicture", "Report", "SampleReport", "attach", "attachment", "detach"]
