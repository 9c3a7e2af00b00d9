"""What to do about a response that says something the image does not support."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vtokens.core.errors import unknown
from vtokens.filter.actions.mend import pieces, text_of
from vtokens.filter.guarantees.risk import Certificate
from vtokens.filter.mentions.base import Span
from vtokens.filter.report import ResponseReport

ACTIONS = ("flag", "redact", "regenerate", "abstain")
"""Mark; drop the sentence; write it again with mitigation, and drop it if that fails; say nothing at all."""

ABSTENTION = "I cannot say this with enough certainty from the image."


@dataclass(frozen=True)
class Edit:
    """A sentence that was not left as it was.

    Attributes:
        what: "redacted", "regenerated" or "abstained".
        before, after: the text; `after` is empty for what was dropped.
        p: the probability that was too high; of a clause that cannot stand without one that was dropped, its own.
        by: how it was written again, such as "vhr"; empty otherwise.
        sentence: which of the sentences in the outcome's report was dropped or written again, from 0; None for a whole
            response, and where nothing was written in the sentence's place.
    """

    what: str
    before: str
    after: str
    p: float
    by: str = ""
    sentence: int | None = None


@dataclass(frozen=True)
class Outcome:
    """What the filter made of a response.

    Attributes:
        text: the response after the action.
        draft: the response before it.
        report: what was found in `text`; for "redact" and "abstain", in the draft.
        edits: what was changed, in order.
        passes: calls of `generate` that were needed.
        certificate: what is guaranteed about `text`; None if nothing.
    """

    text: str
    draft: str
    report: ResponseReport
    edits: tuple[Edit, ...] = ()
    passes: int = 1
    certificate: Certificate | None = None


def check_action(action: str) -> str:
    """Return a name of ACTIONS; ValueError with the nearest one otherwise."""
    if action not in ACTIONS:
        raise unknown("action", action, ACTIONS)
    return action


def without(text: str, spans: Sequence[Span], drop: Sequence[bool]) -> str:
    """`text` without some of its sentences or clauses, mended (`mend.pieces`).

    What stands before the first and behind the last sentence stays if any sentence does.
    """
    if not any(drop):
        return text
    return text_of(*pieces(text, spans, drop))


def apply(report: ResponseReport, action: str) -> Outcome:
    """Flag, redact or abstain, as the report's threshold says.

    Raises:
        ValueError: no such action, one that needs the model ("regenerate"), or no threshold to go by.
    """
    check_action(action)
    if action == "regenerate":
        raise ValueError("'regenerate' needs the model: HallucinationFilter.generate(..., action='regenerate') does it")
    guarantee = report.certificate
    if action == "flag":
        return Outcome(report.response, report.response, report, certificate=guarantee)
    if report.threshold is None:
        raise ValueError(
            f"action={action!r} needs a threshold: calibrate the filter, or give threshold= a number in [0, 1]"
        )
    bad, sentences = report.bad(), report.sentences
    if not any(bad):
        return Outcome(report.response, report.response, report, certificate=guarantee)
    if action == "abstain":
        edit = Edit("abstained", report.response, ABSTENTION, max(judged.p for judged in report.flagged))
        return Outcome(ABSTENTION, report.response, report, (edit,), certificate=guarantee)
    shown, end = pieces(report.response, report.spans, bad)
    edits = tuple(
        Edit("redacted", sentence.text, "", sentence.p, sentence=number)
        for number, (sentence, one) in enumerate(zip(sentences, shown, strict=True))
        if one is None
    )
    return Outcome(text_of(shown, end).strip(), report.response, report, edits, certificate=guarantee)
