"""What the hallucination filter found in an answer, as clients are told."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from vtokens.filter.actions.action import Outcome
from vtokens.filter.actions.mend import pieces
from vtokens.filter.filter import HallucinationFilter
from vtokens.filter.judge import one_picture
from vtokens.filter.saved import ships
from vtokens.loading.media import Medium
from vtokens.serve.answers import Mark, Verdict
from vtokens.serve.asked import FilterAsked


def verdict(hf: HallucinationFilter, asked: FilterAsked, media: Sequence[Medium], marks: list[Mark]) -> Verdict:
    """What a filter says of an answer about pictures.

    Args:
        hf: the filter.
        asked: what it was to do.
        media: what the answer is about.
        marks: what it found.
    """
    judge = hf.judge
    guaranteed = asked.threshold is None and (asked.risk is not None or asked.action != "flag")
    certificate = hf.certificate(asked.risk, asked.action) if guaranteed else None
    threshold: float | None = asked.threshold if asked.threshold is not None else 0.5
    if certificate is not None:
        # Infinite where nothing need be dropped, which JSON does not know; the guarantee says so.
        known = certificate.threshold
        threshold = known if known is not None and math.isfinite(known) else None
    fits = judge.calibrator is not None and (one_picture(list(media)) or not ships(judge.calibrator))
    return Verdict(
        action=asked.action,
        threshold=threshold,
        calibrated=fits,
        # What is written again is outside of it.
        guarantee=" ".join(str(certificate).split()) if certificate and asked.action != "regenerate" else None,
        marks=marks,
    )


def mark(judged: Any) -> Mark:
    """The mark of a mention that was flagged, and left where it stands."""
    return Mark(start=judged.start, end=judged.end, probability=judged.p, text=judged.text, what="flagged")


def changed(start: int, text: str, before: str, p: float, what: Any) -> Mark:
    """A mark of what stands in a sentence's place, without what joins it to the one before."""
    joint = next((place for place, char in enumerate(text) if char.isalnum()), 0)
    return Mark(start=start + joint, end=start + len(text.rstrip()), probability=p, text=before, what=what)


def marks_of(outcome: Outcome) -> Iterator[Mark]:
    """What became of the sentences of an outcome, at their places in its text."""
    report, edits = outcome.report, {edit.sentence: edit for edit in outcome.edits}
    if None in edits:
        edit = edits[None]
        yield Mark(start=0, end=len(edit.after), probability=edit.p, text=edit.before, what="abstained")
        return
    yield from (mark(one) for one in report.flagged if not edits)
    drop = [number in edits and edits[number].what == "redacted" for number in range(len(report.spans))]
    place = 0
    for number, shown in enumerate(pieces(report.response, report.spans, drop)[0]):
        size, found = len(shown or ""), edits.get(number)
        if found is not None:
            yield changed(place, shown or "", found.before, found.p, found.what)
        place += size
